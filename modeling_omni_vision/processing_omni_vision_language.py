# Copyright 2026 The OmniVision authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Processor of [`OmniVisionForConditionalGeneration`]: images, and prompts with an `<image>` for each of them."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import LlavaProcessor
from transformers.processing_utils import MultiModalData


# Spellings of a part's type, those of OpenAI's two APIs among them, and where the image or text of a part may stand.
IMAGE_PARTS = ("image", "image_url", "input_image")
TEXT_PARTS = ("text", "input_text", "output_text")
IMAGE_SOURCES = ("image", "image_url", "url", "path", "base64")
# LLaVA's names of roles, in lower case.
ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "chatgpt": "assistant"}
# Most chat templates of language models take only string content: content parts are joined first. The rules are those
# of `read_part`, for programs that use the template without the processor.
FLATTEN_CONTENT = """\
{%- set turns = namespace(flat=[]) -%}
{%- for message in messages -%}
{%- set turn = namespace(text='') -%}
{%- set content = message['content'] -%}
{%- if message['value'] is defined -%}
{{- raise_exception('Expected messages with role and content, got from and value.') -}}
{%- elif content is string -%}
{%- set turn.text = content -%}
{%- else -%}
{%- for part in ([content] if content is mapping else (content or [])) -%}
{%- set kind = 'text' if part is string else part['type'] -%}
{%- if not kind -%}
{%- set source = part['image'] or part['image_url'] or part['url'] or part['path'] or part['base64'] -%}
{%- set kind = 'text' if part['text'] is defined else ('image' if source else 'none') -%}
{%- endif -%}
{%- if kind in ['image', 'image_url', 'input_image'] -%}
{%- set turn.text = turn.text + 'IMAGE_TOKEN\\n' -%}
{%- elif kind in ['text', 'input_text', 'output_text'] -%}
{%- set turn.text = turn.text + (part if part is string else (part['text'] or '')) -%}
{%- else -%}
{{- raise_exception('Expected parts of type text or image, got ' ~ kind ~ '.') -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- set turns.flat = turns.flat + [dict(message, content=turn.text)] -%}
{%- endfor -%}
{%- set messages = turns.flat -%}
"""
# For base models without a chat template.
PLAIN_CHAT = """\
{%- for message in messages -%}
{{- message['role'] | upper + ': ' + message['content'] + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""


def image_chat_template(chat_template: str | None, image_token: str = "<image>") -> str:
    """
    Return a chat template that also accepts images.

    Args:
        chat_template: The language model's, whose output for plain text does not change; None for models without one,
            whose chats are formatted as `USER: ...` and `ASSISTANT: ...`.
        image_token: Text inserted, with a line break, for an image.
    """
    flatten = FLATTEN_CONTENT.replace("IMAGE_TOKEN", image_token)
    own = PLAIN_CHAT if chat_template is None else chat_template
    # A language model that was saved as a part of one of ours accepts them already.
    return own if own.startswith(flatten) else flatten + own


def read_part(part: Any) -> dict[str, Any]:
    """
    Return a part of a message as transformers has it: `{"type": "text", "text": ...}` or `{"type": "image", ...}`.

    Args:
        part: That, a string, or the forms of OpenAI: types `image_url`, `input_image`, `input_text`. A part without a
            type is what it holds.

    Raises:
        `ValueError`: for any other part, such as a video.
    """
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, Mapping):
        raise ValueError(f"Expected the parts of a message as dicts or text, got {part!r}. Pass a list of parts.")
    found = next((part[name] for name in IMAGE_SOURCES if part.get(name) is not None), None)
    kind = part.get("type") or ("text" if "text" in part else None if found is None else "image")
    if kind in TEXT_PARTS and isinstance(part.get("text") or "", str):
        return {"type": "text", "text": part.get("text") or ""}
    # One without an image marks the place of one that is passed beside the chat; a file of a service is none.
    if kind in IMAGE_PARTS and "file_id" not in part:
        source = found.get("url") if isinstance(found, Mapping) and "url" in found else found
        return {"type": "image"} if source is None else {"type": "image", "image": source}
    nearest = difflib.get_close_matches(str(kind), (*IMAGE_PARTS, *TEXT_PARTS), 1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest and kind != nearest[0] else ""
    raise ValueError(f"Expected parts of type 'text' or 'image' with what they hold, got {dict(part)!r:.200}.{hint}")


def read_message(message: Any) -> Any:
    """Return a message with `role` and `content`, its parts as [`read_part`] has them; LLaVA's form is read too."""
    if not isinstance(message, Mapping):
        return message
    message = dict(message)
    if "from" in message and "role" not in message:
        message["role"] = message.pop("from")
    role = str(message.get("role")).lower()
    if role in (*ROLES, *ROLES.values(), "system"):
        message["role"] = ROLES.get(role, role)
    if "value" in message and "content" not in message:
        message["content"] = message.pop("value")
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        parts = [content] if isinstance(content, Mapping) else content
        message["content"] = [read_part(part) for part in parts]
    return message


def question_words(text: str) -> list[str]:
    """Return the words of a question in lower case, without punctuation."""
    return re.findall(r"[^\W_]+", text.lower())


def is_learned(words: Sequence[str], learned: Mapping[str, Any]) -> bool:
    """Return whether the words of a question fit one of the templates of `learned_questions`."""
    slots = {f"{{{index}}}": choices for index, choices in enumerate(learned["slots"])}
    for template in learned["templates"]:
        places = [slots.get(place, [place]) for place in template.split()]
        if len(places) == len(words) and all(word in place for word, place in zip(words, places, strict=True)):
            return True
    return False


def _flat(images: Any) -> list[Any]:
    # Arrays and tensors of four dimensions are stacks of images.
    if isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4:
        return [image for part in images for image in _flat(part)]
    return [images]


def unknown_token(tokenizer: Any) -> int | None:
    """Return the token of unknown words, or None where there is none: some tokenizers name the end of text so."""
    token: int | None = tokenizer.unk_token_id
    return None if token in (tokenizer.eos_token_id, tokenizer.bos_token_id) else token


def _last_words(chat: Sequence[Any]) -> str | None:
    """Return what the user said last, without images."""
    said = [turn for turn in chat if isinstance(turn, Mapping) and turn.get("role") == "user"]
    content = said[-1].get("content") if said else None
    if content is None or isinstance(content, str):
        return content
    return " ".join(part.get("text", "") for part in content)


def _begins_with_system(chat: Sequence[Any]) -> bool:
    return len(chat) > 1 and isinstance(chat[0], Mapping) and chat[0].get("role") == "system"


def _without_system(chat: list[Any]) -> list[Any]:
    if not _begins_with_system(chat):
        return chat
    system, first, *rest = chat
    said = [part for turn in (system, first) for part in _parts(turn["content"])]
    return [{**first, "content": [*said[:1], {"type": "text", "text": "\n\n"}, *said[1:]]}, *rest]


def _parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class OmniVisionProcessor(LlavaProcessor):
    """
    Prepares images, prompts or both for [`OmniVisionForConditionalGeneration`].

    Each `<image>` of a prompt belongs to the next image and is expanded to `image_seq_length` image tokens: one for
    each feature vector of the image in early fusion, a single one in late fusion, where it marks the position.

    Args:
        image_processor: An [`OmniVisionImageProcessor`].
        tokenizer: The tokenizer of the language model, with the image token in its vocabulary. Its padding side is set
            to left, as `generate` needs; a call may pass `padding_side="right"`.
        image_seq_length (`int`, *optional*, defaults to 1):
            Image tokens in the prompt for each image, `config.image_seq_length`.
        chat_template (`str`, *optional*):
            By default the tokenizer's, extended by [`image_chat_template`].
        image_token (`str`, *optional*, defaults to `"<image>"`):
            Placeholder of an image in prompts.
        learned_questions (`dict`, *optional*):
            What a model that only knows some kinds of questions can be asked: `templates`, whose `{0}`, `{1}` ...
            stand for one of the words of `slots`, and `examples`. [`apply_chat_template`] refuses other questions.

    Raises:
        `ValueError`: if the tokenizer does not encode the image token as one token.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_length: int = 1,
        chat_template: str | None = None,
        image_token: str = "<image>",
        learned_questions: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        found = tokenizer.encode(image_token, add_special_tokens=False)
        if len(found) != 1 or found == [tokenizer.unk_token_id]:
            raise ValueError(
                f"The tokenizer must encode {image_token!r} as one token, got {found!r}. Add it: "
                f"tokenizer.add_tokens({image_token!r}, special_tokens=True)."
            )
        if chat_template is None:
            own = None if tokenizer.chat_template is None else tokenizer.get_chat_template()
            chat_template = image_chat_template(own, image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template, image_token=image_token)
        self.image_seq_length, self.learned_questions = image_seq_length, learned_questions
        # Generated tokens are appended on the right. Set here since saving a tokenizer does not always keep the side.
        self.tokenizer.padding_side = "left"

    def apply_chat_template(  # type: ignore[override]
        self, conversation: Any, chat_template: str | None = None, force: bool = False, **kwargs: Any
    ) -> Any:
        """
        Format a chat as [`~ProcessorMixin.apply_chat_template`] does, in any of the forms that [`read_message`] reads.

        Args:
            conversation: Messages, or a list of conversations.
            chat_template: By default the processor's.
            force: Whether questions are formatted that the model did not learn.
            kwargs: See [`~ProcessorMixin.apply_chat_template`].

        Raises:
            `ValueError`: for a part that is neither text nor image, and with `add_generation_prompt` for a last
                question of a kind that the model did not learn.
        """
        batched = bool(conversation) and isinstance(conversation[0], (list, tuple))
        chats = [[read_message(turn) for turn in chat] for chat in (conversation if batched else [conversation])]
        if kwargs.get("add_generation_prompt") and not force:
            for refusal in filter(None, (self.refusal(_last_words(chat)) for chat in chats)):
                raise ValueError(refusal)
        try:
            return super().apply_chat_template(chats if batched else chats[0], chat_template, **kwargs)
        except Exception as error:
            if not any(_begins_with_system(chat) for chat in chats):
                raise
            # Some templates, such as Gemma's, refuse the role: what it says then begins the first turn of the user.
            chats = [_without_system(chat) for chat in chats]
            try:
                return super().apply_chat_template(chats if batched else chats[0], chat_template, **kwargs)
            except Exception:
                raise error from None

    def unknown_words(self, question: str) -> list[str]:
        """Return the words of a question that the model has no token for, or that no question it learned has."""
        if self.learned_questions is None:
            unknown = unknown_token(self.tokenizer)
            tokens = {word: self.tokenizer(word, add_special_tokens=False)["input_ids"] for word in question.split()}
            return [word for word, ids in tokens.items() if unknown is not None and unknown in ids]
        known = {word for text in self.learned_questions["templates"] for word in text.split()}
        known = known.union(*self.learned_questions["slots"])
        return [word for word in question_words(question) if word not in known]

    def refusal(self, question: str | None) -> str | None:
        """Return what the model can be asked instead, in a sentence, or None for a question of a kind that it learned.

        Without `learned_questions` every question is.
        """
        if self.learned_questions is None or question is None:
            return None
        words = question_words(question.replace(self.image_token, " "))
        if is_learned(words, self.learned_questions):
            return None
        unknown = self.unknown_words(" ".join(words))
        reason = f"the words {', '.join(map(repr, unknown))} are new to it" if unknown else "no question of this kind"
        examples = " ".join(self.learned_questions["examples"])
        return (
            f"This model did not learn to answer {question.strip()!r} ({reason}). It can be asked: {examples} Ask one "
            "of these, or force an answer: `force=True`, on the command line --force."
        )

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        """Return the image tokens of image `image_idx`."""
        return self.image_token * self.image_seq_length

    def prepare_inputs_layout(self, images: Any = None, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        """
        Flatten images to one list, in order; an empty list becomes None.

        Raises:
            `ValueError`: if images are grouped by prompt and a group does not match its prompt.
        """
        grouped = isinstance(images, (list, tuple)) and any(isinstance(group, (list, tuple)) for group in images)
        if grouped and isinstance(text, (list, tuple)):
            self._check_groups(images, text)
        images = None if images is None else _flat(images)
        return super().prepare_inputs_layout(images or None, text, *args, **kwargs)

    def validate_inputs(self, images: Any = None, text: Any = None, *args: Any, **kwargs: Any) -> None:
        """
        Check that there is an image for each `<image>`.

        Raises:
            `ValueError`: if the numbers differ, with both; for neither images nor text.
        """
        if text is not None and all(isinstance(prompt, str) for prompt in text):
            expected, got = sum(prompt.count(self.image_token) for prompt in text), len(images or [])
            if expected != got:
                raise ValueError(
                    f"The number of {self.image_token} tokens in the prompts should be the same as the number of "
                    f"images, got {expected} {self.image_token} in the text and {got} images. Put one "
                    f"{self.image_token} into the text for each image."
                )
        super().validate_inputs(images, text, *args, **kwargs)

    def _check_groups(self, images: Sequence[Any], text: Sequence[str]) -> None:
        expected, got = [prompt.count(self.image_token) for prompt in text], [len(_flat(group)) for group in images]
        if expected != got:
            raise ValueError(
                f"The number of {self.image_token} tokens in the prompts should be the same as the number of images "
                f"of each group, got {expected} {self.image_token} and {got} images. Group the images by prompt, or "
                "pass them in one flat list."
            )

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **kwargs: Any) -> MultiModalData:
        """Return the number of image tokens of images for serving engines: the same for each size."""
        if image_sizes is None:
            return MultiModalData()
        count = len(image_sizes)
        return MultiModalData(num_image_tokens=[self.image_seq_length] * count, num_image_patches=[1] * count)


__all__ = [
    "OmniVisionProcessor",
    "image_chat_template",
    "is_learned",
    "question_words",
    "read_message",
    "read_part",
    "unknown_token",
]

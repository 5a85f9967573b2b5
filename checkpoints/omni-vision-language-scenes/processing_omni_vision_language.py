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

from collections.abc import Sequence
from typing import Any

from transformers import LlavaProcessor
from transformers.processing_utils import MultiModalData


# Most chat templates of language models take only string content: content parts are joined first.
FLATTEN_CONTENT = """\
{%- set turns = namespace(flat=[]) -%}
{%- for message in messages -%}
{%- set turn = namespace(text='') -%}
{%- if message['content'] is string -%}
{%- set turn.text = message['content'] -%}
{%- else -%}
{%- for part in message['content'] or [] -%}
{%- set turn.text = turn.text + ('IMAGE_TOKEN\\n' if part['type'] == 'image' else (part['text'] or '')) -%}
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
    return FLATTEN_CONTENT.replace("IMAGE_TOKEN", image_token) + (
        PLAIN_CHAT if chat_template is None else chat_template
    )


def _flat(images: Any) -> list[Any]:
    if isinstance(images, (list, tuple)):
        return [image for part in images for image in _flat(part)]
    return [images]


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
        self.image_seq_length = image_seq_length
        # Generated tokens are appended on the right. Set here since saving a tokenizer does not always keep the side.
        self.tokenizer.padding_side = "left"

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
                    f"Expected an image for each {self.image_token}, got {expected} {self.image_token} in the text "
                    f"and {got} images. Put one {self.image_token} into the text for each image."
                )
        super().validate_inputs(images, text, *args, **kwargs)

    def _check_groups(self, images: Sequence[Any], text: Sequence[str]) -> None:
        expected, got = [prompt.count(self.image_token) for prompt in text], [len(_flat(group)) for group in images]
        if expected != got:
            raise ValueError(
                f"Expected as many images in each group as its prompt has {self.image_token}, got {expected} "
                f"{self.image_token} and {got} images. Group the images by prompt, or pass them in one flat list."
            )

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **kwargs: Any) -> MultiModalData:
        """Return the number of image tokens of images for serving engines: the same for each size."""
        if image_sizes is None:
            return MultiModalData()
        count = len(image_sizes)
        return MultiModalData(num_image_tokens=[self.image_seq_length] * count, num_image_patches=[1] * count)


__all__ = ["OmniVisionProcessor", "image_chat_template"]

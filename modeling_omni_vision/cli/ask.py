"""Ask a vision-language model about an image; the answer appears word by word, while it is generated.

    omni-vision ask --model runs/vlm --image image.png "What is it?"

A model that learned only some kinds of questions says so instead of answering another one; `--force true` makes it
answer. Uses transformers only, as without this package. The checkpoint's code runs because of
`trust_remote_code=True`, so pass a `--revision` for checkpoints that are not yours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .arguments import REVISION, option, parse
from .model_kind import LANGUAGE, check_kind
from .program import program


@dataclass
class AskArguments:
    """The question, and who answers it."""

    question: str = option("The question.", positional=True, words=True)
    model: str = option("Folder or Hub id of a vision-language model.")
    image: str = option("File or URL of the image.")
    max_new_tokens: int = option("The answer is cut after this many tokens.", 64, least=1)
    force: bool = option("Answer questions too that the model did not learn.", False)
    revision: str | None = option(REVISION, None)


def ask(
    model: str, image: str, question: str, max_new_tokens: int = 64, force: bool = False, revision: str | None = None
) -> str:
    """Print the answer while it is generated, the most probable token each time, and return it.

    Raises:
        ValueError: for a question of a kind that the model did not learn, unless `force`.
    """
    import sys

    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor, TextStreamer

    from ..interop.vision_tower import load_complete

    trust: dict[str, Any] = {"trust_remote_code": True, "revision": revision}
    processor = AutoProcessor.from_pretrained(model, **trust)
    checked = hasattr(processor, "refusal")
    if checked and not force and (refusal := processor.refusal(question)):
        raise ValueError(refusal)
    if checked and (unknown := processor.unknown_words(question)):
        print(f"The model does not know these words: {', '.join(unknown)}.", file=sys.stderr)
    opened = load_complete(AutoModelForImageTextToText, model, **trust)
    chat = [{"role": "user", "content": [{"type": "image", "path": image}, {"type": "text", "text": question}]}]
    forced = {"force": True} if checked else {}
    inputs = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True, **forced
    )
    streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    with torch.inference_mode():
        tokens = opened.generate(**inputs, streamer=streamer, max_new_tokens=max_new_tokens, do_sample=False)
    return processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(AskArguments, argv)
    check_kind(arguments.model, LANGUAGE, revision=arguments.revision)
    ask(**vars(arguments))

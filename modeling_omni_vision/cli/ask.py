"""Ask a language model about an image; the answer appears word by word, as it is found.

    python scripts/ask.py image.png "What is it?" --model runs/seeing

As a stranger would: transformers only, none of our package. The code of the checkpoint runs because of
`trust_remote_code=True`, so pass a `--revision` for checkpoints that are not yours.
"""

import argparse
from collections.abc import Sequence

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, TextStreamer


@torch.inference_mode()
def ask(model: str, image: str, question: str, max_new_tokens: int = 64, revision: str | None = None) -> str:
    """Print the answer while it is generated, most probable word first, and return it."""
    trust = {"trust_remote_code": True, "revision": revision}
    processor = AutoProcessor.from_pretrained(model, **trust)
    opened = AutoModelForImageTextToText.from_pretrained(model, **trust).eval()
    chat = [{"role": "user", "content": [{"type": "image", "path": image}, {"type": "text", "text": question}]}]
    inputs = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    said = opened.generate(**inputs, streamer=streamer, max_new_tokens=max_new_tokens, do_sample=False)
    return processor.decode(said[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", help="a file, or a URL")
    parser.add_argument("question")
    parser.add_argument("--model", required=True, help="folder or name on the Hub of a language model that sees")
    parser.add_argument("--max_new_tokens", type=int, default=64, help="the answer is cut there (default 64)")
    parser.add_argument("--revision", help="commit, branch or tag on the Hub")
    arguments = parser.parse_args(argv)
    ask(**vars(arguments))


if __name__ == "__main__":
    main()

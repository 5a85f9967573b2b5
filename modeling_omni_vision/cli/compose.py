"""Compose an untrained language model that sees, of an OmniVision checkpoint and any causal language model.

    python scripts/compose.py --vision checkpoints/omni-vision-fashion-mnist \
        --text HuggingFaceTB/SmolLM2-135M-Instruct --fusion early --output runs/seeing

Without an image it is the language model, to the bit; it has to be trained to make sense of images.
"""

from dataclasses import dataclass, field

from transformers import HfArgumentParser

from ..interop import compose_language_model


@dataclass
class ComposeArguments:
    """What to compose, and how images reach the words."""

    vision: str = field(metadata={"help": "OmniVision checkpoint, a folder or a name on the Hub."})
    text: str = field(metadata={"help": "Causal language model with its tokenizer, a folder or a name on the Hub."})
    output: str = field(metadata={"help": "New or empty folder to write."})
    fusion: str = field(
        default="early",
        metadata={"help": "early: image vectors between the words; late: gated cross-attention to them."},
    )
    vision_feature_select_strategy: str | None = field(
        default=None, metadata={"help": "cls, grid or cls+grid; by default cls for early and grid for late fusion."}
    )
    projector: str = field(default="linear", metadata={"help": "linear, or mlp: two layers."})
    scale_factor: int = field(
        default=1, metadata={"help": "Side of the squares of patches that become one token: 2 makes 49 of 196."}
    )
    cross_attention_interval: int = field(
        default=4, metadata={"help": "Late fusion: the layers that look at images, every k-th."}
    )
    dtype: str = field(
        default="float32", metadata={"help": "What to keep the weights in: float32, bfloat16, float16."}
    )


def main(argv: list[str] | None = None) -> None:
    (arguments,) = HfArgumentParser(ComposeArguments).parse_args_into_dataclasses(argv)  # type: ignore[arg-type]
    made = compose_language_model(**vars(arguments))
    print(
        f"OK: {made.folder} holds {made.num_parameters:,} parameters, {made.num_new_parameters:,} of them new and "
        f"untrained; {made.image_seq_length} image tokens for an image"
    )


if __name__ == "__main__":
    main()

r"""Compose an untrained vision-language model of an OmniVision checkpoint and any causal language model.

    omni-vision compose --vision checkpoints/omni-vision-fashion-mnist \
        --text HuggingFaceTB/SmolLM2-135M-Instruct --fusion early --output runs/vlm

Without an image it computes what the language model computes, bit for bit. It has to be trained to read images:
`omni-vision train-language`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .arguments import DTYPES, option, parse
from .program import program


@dataclass
class ComposeArguments:
    """What to compose, and how image features reach the language model."""

    vision: str = option("OmniVision checkpoint, a folder or a name on the Hub.")
    text: str = option("Causal language model with its tokenizer, a folder or a name on the Hub.")
    output: str = option("New or empty folder to write.", folder=True)
    fusion: str = option(
        "early: image features among the text tokens; late: gated cross-attention to them.",
        "early",
        choices=("early", "late"),
    )
    vision_feature_select_strategy: str | None = option(
        "cls, grid or cls+grid; without it cls for early and grid for late fusion.",
        None,
        choices=("cls", "grid", "cls+grid"),
    )
    projector: str = option("linear, or mlp: two layers.", "linear", choices=("linear", "mlp"))
    scale_factor: int = option("Side of the squares of patches that become one token: 2 makes 49 of 196.", 1)
    cross_attention_interval: int = option("Late fusion: every k-th layer attends to images.", 4)
    dtype: str = option("Type of the weights: float32, bfloat16 or float16.", "float32", choices=DTYPES)


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(ComposeArguments, argv)
    from ..interop import compose_language_model

    made = compose_language_model(**vars(arguments))
    print(
        f"OK: {made.folder} holds {made.num_parameters:,} parameters, {made.num_new_parameters:,} of them new and "
        f"untrained; {made.image_seq_length} image token{'' if made.image_seq_length == 1 else 's'} for an image"
    )

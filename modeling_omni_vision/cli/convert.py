"""Convert a checkpoint of ours into a stock one, or a foreign one into ours, exactly.

Ours to a stock ViT or DINOv2 that plain transformers opens without remote code (the native twin; both are run and
compared). `--target vit` refuses what needs a DINOv2: pooled patches and register tokens.

    omni-vision convert --target native --model runs/digits --output runs/digits-native

mu-Omni's vision encoder to ours:

    omni-vision convert --source muomni --model vision.pt --output runs/muomni
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .arguments import option, parse
from .program import program


@dataclass
class ConvertArguments:
    """What to convert. Give exactly one of `--source` and `--target`."""

    model: str = option("Folder of ours (with --target), or mu-Omni's vision.pt (with --source).")
    output: str = option("New or empty folder to write.")
    source: str | None = option("Where the checkpoint comes from: muomni.", None, choices=("muomni",))
    target: str | None = option(
        "What to make of our checkpoint: native (the stock model that fits), or vit.", None, choices=("native", "vit")
    )
    num_heads: int | None = option(
        "muomni: attention heads, which cannot be inferred. Without it 2 for a width of 128, 3 for 192.", None
    )
    spec_config: str | None = option("muomni: JSON file with the specification's names (img_size, patch, ...).", None)


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(ConvertArguments, argv)
    from ..interop import convert_from_muomni, convert_to_native, convert_to_vit

    match (arguments.source, arguments.target):
        case (None, "native" | "vit"):
            convert = convert_to_vit if arguments.target == "vit" else convert_to_native
            twin = convert(arguments.model, arguments.output)
            print(
                f"OK: {twin.folder} is a stock {twin.architecture}, largest difference {twin.difference:.1e}"
                + ("" if twin.has_processor else "; the checkpoint had no image processor, so it has none")
            )
        case ("muomni", None):
            ours = convert_from_muomni(arguments.model, arguments.output, arguments.num_heads, arguments.spec_config)
            print(
                f"OK: {ours.folder} holds {ours.num_parameters:,} parameters, "
                f"{ours.config.num_attention_heads} heads, residual mean {ours.residual_mean:.1e}"
            )
        case _:
            raise ValueError(
                "Exactly one of `--source muomni` and `--target native` (or vit) is expected, got "
                f"--source {arguments.source!r} and --target {arguments.target!r}. Give one of them."
            )

"""Convert a checkpoint of ours into a stock one, or a foreign one into ours, exactly.

Ours to a stock ViT or DINOv2 that plain transformers opens with no remote code (the native twin; both are run and
compared). `--target vit` refuses what needs a DINOv2: pooled patches and register tokens.

    python scripts/convert.py --target native --model runs/digits --output runs/digits-native

mu-Omni's vision encoder to ours:

    python scripts/convert.py --source muomni --model vision.pt --output runs/muomni

"""

from dataclasses import dataclass, field

from transformers import HfArgumentParser

from ..interop import convert_from_muomni, convert_to_native, convert_to_vit


@dataclass
class ConvertArguments:
    """What to convert. Give exactly one of `--source` and `--target`."""

    model: str = field(metadata={"help": "Folder of ours (with --target), or mu-Omni's vision.pt (with --source)."})
    output: str = field(metadata={"help": "New or empty folder to write."})
    source: str | None = field(default=None, metadata={"help": "Where the checkpoint comes from: muomni."})
    target: str | None = field(
        default=None, metadata={"help": "What to make of our checkpoint: native (the stock model that fits), or vit."}
    )
    num_heads: int | None = field(
        default=None,
        metadata={"help": "muomni: attention heads, which no shape tells. Default 2 for a width of 128, 3 for 192."},
    )
    spec_config: str | None = field(
        default=None, metadata={"help": "muomni: JSON file with the specification's names (img_size, patch, ...)."}
    )


def main(argv: list[str] | None = None) -> None:
    (arguments,) = HfArgumentParser(ConvertArguments).parse_args_into_dataclasses(argv)  # type: ignore[arg-type]
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


if __name__ == "__main__":
    main()

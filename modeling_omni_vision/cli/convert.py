"""Convert a checkpoint of ours into a stock one, or a foreign one into ours, exactly.

Ours to a stock ViT or DINOv2 that plain transformers opens without remote code (the native twin; both are run and
compared). `--target vit` refuses what needs a DINOv2: pooled patches and register tokens.

    omni-vision convert --target native --model runs/digits --output runs/digits-native

Encoders, classifiers and whole CLIPs of transformers (ViT, ViT-MAE, ViT-MSN, DeiT, DINOv2, CLIP, SigLIP), of timm and
of open_clip to ours; both are run and compared:

    omni-vision convert --source auto --model facebook/dinov2-small --output runs/dinov2-small

mu-Omni's vision encoder to ours:

    omni-vision convert --source muomni --model vision.pt --output runs/muomni
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .arguments import REVISION, option, parse
from .program import program


@dataclass
class ConvertArguments:
    """What to convert. Give exactly one of `--source` and `--target`."""

    model: str = option(
        "Folder of ours (with --target); folder or Hub name of a foreign checkpoint, a state dict of timm, "
        "or mu-Omni's vision.pt (with --source)."
    )
    output: str = option("New or empty folder to write.", folder=True)
    source: str | None = option(
        "Library that the checkpoint is of; auto sees it from the files.",
        None,
        choices=("auto", "transformers", "timm", "open_clip", "muomni"),
    )
    target: str | None = option(
        "What to make of our checkpoint: native (the stock model that fits), or vit.", None, choices=("native", "vit")
    )
    num_heads: int | None = option(
        "muomni: attention heads, which cannot be inferred. Without it 2 for a width of 128, 3 for 192.", None
    )
    architecture: str | None = option("timm: name of the architecture, for a file with a state dict.", None)
    hidden_act: str | None = option(
        "timm: activation in place of the one that architecture and tag say, such as gelu or quick_gelu.", None
    )
    encoder_only: bool = option("Leave out a classification head, or a text tower.", False)
    revision: str | None = option(REVISION, None)
    trust_remote_code: bool = option(
        "Let code that lies with the original run when it is opened to be compared.", False
    )
    spec_config: str | None = option("muomni: JSON file with the specification's names (img_size, patch, ...).", None)


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(ConvertArguments, argv)
    from ..interop import convert_from_muomni, convert_from_source, convert_to_native, convert_to_vit

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
        case ("auto" | "transformers" | "timm" | "open_clip", None):
            options = {name: getattr(arguments, name) for name in ("architecture", "hidden_act", "revision")}
            report(
                convert_from_source(
                    arguments.model,
                    arguments.output,
                    arguments.source,
                    arguments.trust_remote_code,
                    encoder_only=arguments.encoder_only,
                    **options,
                )
            )
        case _:
            raise ValueError(
                "Exactly one of `--source auto` (or muomni, ...) and `--target native` (or vit) is expected, got "
                f"--source {arguments.source!r} and --target {arguments.target!r}. Give one of them."
            )


def report(made: Any) -> None:
    """Print what was made of a foreign checkpoint, and how far it is from the original."""
    differences = ", ".join(f"{size} {found:.1e}" for size, found in made.differences.items())
    print(f"OK: {made.folder} is an {made.architecture} with {made.num_parameters:,} parameters")
    print(f"Largest difference to {made.library} by image size: {differences}")
    if made.grey_levels is not None:
        print(f"Largest difference of pixels on twenty images: {made.grey_levels:.2f} of 255 levels")
    for note in (*made.notes, *([f"left out: {', '.join(made.left_out)}"] if made.left_out else [])):
        print(f"Note: {note}")

"""A foreign checkpoint becomes a folder of ours that was compared with the original before it appeared."""

import json
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedConfig

from ..configuration_omni_vision import OmniVisionConfig
from ..records.metrics_file import merge_metrics
from .clean_comparison import sizes_of
from .converted import Converted
from .folder import atomic_output_dir
from .isolated_process import run_isolated
from .source import read_source
from .source_processor import source_image_processor, source_tokenizer
from .weights_file import find_weights


# In float32, relative to the largest output where that exceeds 1; logits of a retrieval model are scaled up.
TOLERANCE, LOGIT_TOLERANCE = 1e-5, 1e-4
# With the same library below both, rounding alone is left; measured 0.
MAX_GREY_LEVELS = 0.01
# Pillow and torchvision resize 8 bits up to two levels apart, more than one for at most 1e-4 of the values measured.
MAX_STRAYED = 1e-3
COMPARISON_SECONDS = 900
# How a copy of a checkpoint says nothing of its images, by library.
WITHOUT_SETTINGS = {
    "transformers": "without preprocessor_config.json and processor_config.json",
    "timm": "whose config.json has no `mean`",
    "open_clip": "whose open_clip_config.json has null for `preprocess_cfg`",
}


@dataclass(frozen=True)
class SourceReport:
    """What `convert_from_source` made, and how far it is from the original."""

    folder: Path
    architecture: str
    library: str
    num_parameters: int
    differences: dict[str, float]  # by image size
    grey_levels: float | None  # None without an image processor
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def difference(self) -> float:
        """Largest difference of any output at any size, relative to its size where that exceeds 1."""
        return max(self.differences.values())


def convert_from_source(
    model: str | Path,
    output_dir: str | Path,
    library: str = "auto",
    trust_remote_code: bool = False,
    **options: Any,
) -> SourceReport:
    """
    Write a foreign checkpoint as a folder of ours that computes the same.

    Args:
        model: Folder, Hub name, or a file with a state dict of timm.
        output_dir: New or empty folder; nothing is left in it after an error.
        library: `"transformers"`, `"timm"`, `"open_clip"`, or `"auto"` to see it from the files.
        trust_remote_code: Whether code that lies with the original may run when it is opened for the comparison.
        options: Of `read_source`: `revision`, `architecture`, `hidden_act`, `encoder_only`.

    Raises:
        `ValueError`: if the checkpoint cannot be read, has what ours has no place for, or ours computes something
            else.
    """
    converted = read_source(model, library, **options)
    ours = converted.model()
    processor = processor_of(converted)
    with atomic_output_dir(output_dir) as folder:
        ours.save_pretrained(folder)
        count, architecture = ours.num_parameters(), type(ours).__name__
        del ours
        converted.state = {}
        if processor is not None:
            processor.save_pretrained(folder)
        answer = compare(converted, folder, processor is not None, options, trust_remote_code)
        report = SourceReport(Path(output_dir), architecture, converted.library, count, **answer)
        report.left_out.extend(converted.left_out)
        report.notes.extend(converted.notes)
        write_origin(folder, converted, str(model), report)
    return report


def processor_of(converted: Converted) -> Any:
    """Return the image processor, of a retrieval model with the tokenizer; None where the original has no settings."""
    images = source_image_processor(converted)
    if isinstance(converted.config, OmniVisionConfig):
        return images
    from ..processing_omni_vision_retrieval import OmniVisionRetrievalProcessor

    if images is None:
        raise ValueError(
            "A model with a text tower needs the settings of its images too, got none that ours can follow in "
            f"{str(converted.origin['folder'])!r}. Download them, or convert the vision tower: --encoder_only true."
        )
    config: Any = converted.config
    processor = OmniVisionRetrievalProcessor(
        images, source_tokenizer(converted), config.image_seq_length, fixed_text_length=config.fixed_text_length
    )
    config.skiplist_token_ids = processor.skiplist_token_ids
    return processor


def compare(
    converted: Converted, folder: Path, has_processor: bool, options: dict[str, Any], trust_remote_code: bool
) -> dict[str, Any]:
    """Run both models in a clean process; raise `ValueError` if they differ."""
    request = comparison_request(converted, folder, has_processor, options, trust_remote_code)
    answer = run_comparison(request)
    differences = {
        "x".join(map(str, size)): found for size, found in zip(request["sizes"], answer["differences"], strict=True)
    }
    allowed = LOGIT_TOLERANCE if request["texts"] else TOLERANCE
    wrong = [f"{size} pixels: {found:.1e}" for size, found in differences.items() if not found <= allowed]
    if wrong or not answer["ids_equal"]:
        found = f"differences at {'; '.join(wrong)}" if wrong else "other token ids for the same texts"
        raise ValueError(f"Both models must compute the same within {allowed:.0e}, got {found}. Nothing was written.")
    levels = check_pixels(converted, answer["pixels"], request["texts"]) if has_processor else None
    return {"differences": differences, "grey_levels": levels}


def check_pixels(converted: Converted, pixels: dict[str, Any], is_whole: bool) -> float:
    """Return how far pixels are from the original's, in grey levels; raise `ValueError` where that is too much.

    Of our two image processors, the one with the original's library shows whether the settings are the same. The
    torchvision one, which opens by default, must not be far from it either.
    """
    backend = pixels["backend"]
    levels, strayed = pixels["grey_levels"][backend], pixels["strayed"]["torchvision"]
    got = f"{levels:.2f}" if levels < float("inf") else "images of another shape"
    if levels <= MAX_GREY_LEVELS:
        got = f"{strayed:.1%} of the values more than one level off by torchvision"
    if not levels <= MAX_GREY_LEVELS or not strayed <= MAX_STRAYED:
        raise ValueError(
            f"Both image processors must agree within {MAX_GREY_LEVELS} grey levels, got {got}. Nothing was written: "
            f"convert a copy {WITHOUT_SETTINGS[converted.library]}{', with --encoder_only true' * is_whole}, and save "
            "an image processor into the new folder."
        )
    if backend != "torchvision":
        converted.notes.append(
            "the original resizes images with Pillow, as our image processor does with backend='pil'; by default it "
            f"does with torchvision, up to {pixels['grey_levels']['torchvision']:.0f} of 255 levels apart, more than "
            f"one for {strayed:.1g} of the values"
        )
    return levels


def comparison_request(
    converted: Converted, folder: Path, has_processor: bool, options: dict[str, Any], trust_remote_code: bool
) -> dict[str, Any]:
    """Say what the clean process opens, and on what both models run."""
    config: Any = converted.config
    vision, origin = getattr(config, "vision_config", config), converted.origin
    source = origin["folder"].absolute()  # the process has another current directory
    is_whole = vision is not config
    auto_class = (
        "AutoModelForImageClassification" if "Classification" in converted.model_class.__name__ else "AutoModel"
    )
    fixed = is_whole or converted.library == "open_clip"
    return {
        "library": converted.library,
        "source": str(source),
        "weights": str(find_weights(source)[0]) if converted.library == "timm" else None,
        "config": origin["config"],
        "options": origin.get("options", {}),
        "architecture": origin.get("architecture"),
        "trust_remote_code": trust_remote_code,
        "ours": str(folder.absolute()),
        "auto_class": auto_class,
        "channels": vision.num_channels,
        "sizes": sizes_of(vision.image_size_hw, vision.patch_size_hw, fixed),
        "whole": not options.get("encoder_only", False),
        "texts": is_whole,
        "fixed_text_length": getattr(config, "fixed_text_length", None),
        "pixels": has_processor,
    }


def run_comparison(request: dict[str, Any]) -> dict[str, Any]:
    """Start `clean_comparison.py` in a process without our package, a network or a current directory."""
    child = Path(__file__).with_name("clean_comparison.py")
    with tempfile.TemporaryDirectory(prefix="omni-vision-comparison-") as scratch:
        asked, answer = Path(scratch, "request.json"), Path(scratch, "answer.json")
        asked.write_text(json.dumps(request), encoding="utf-8")
        try:
            status, last = run_isolated(child, asked, answer, seconds=COMPARISON_SECONDS)
        except TimeoutError as error:
            raise ValueError(f"The comparison must end within {COMPARISON_SECONDS} s. Nothing was written.") from error
        if status:
            raise ValueError(
                f"The original must open with {request['library']} to be compared, and ours without this package, "
                f"got: {last} Nothing was written."
            )
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return found


def write_origin(folder: Path, converted: Converted, name: str, report: SourceReport) -> None:
    """Write a card, and the section `conversion` of metrics.json from which `publish` makes its own."""
    section = {
        **origin_of(converted.origin["folder"], name, converted.origin["config"]),
        "library": converted.library,
        "largest_difference": report.difference,
        "grey_levels": report.grey_levels,
        "left_out": report.left_out,
        "notes": report.notes,
    }
    merge_metrics(folder, {"conversion": section})
    config: PreTrainedConfig = converted.config
    data = ModelCardData(
        license=section["license"],
        base_model=section["source"] if "/" in section["source"] else None,
        library_name="transformers",
        tags=["vision", config.model_type, "custom_code"],
    )
    (folder / "README.md").write_text(
        f"---\n{data.to_yaml()}\n---\n\n{card_text(folder.name, section)}", encoding="utf-8"
    )


def card_text(name: str, section: dict[str, Any]) -> str:
    """Return what a card says about the original."""
    revision = f" at revision `{section['revision']}`" if section["revision"] else ""
    citation = f"\n\n```bibtex\n{section['citation']}\n```" if section["citation"] else ""
    return (
        f"# {section['source'].split('/')[-1]} as OmniVision\n\n"
        f"Converted by `omni-vision convert` from `{section['source']}`{revision} ({section['library']}). Both models "
        "ran on the same images in a clean process; the largest difference was "
        f"{section['largest_difference']:.1e}.\n\n"
        f"## Licence and citation\n\nLicence of the original: {section['license'] or 'not stated'}.{citation}\n"
    )


def origin_of(folder: Path, name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return name, revision, licence and citation of an original, None for what it does not say."""
    readme = (folder if folder.is_dir() else folder.parent) / "README.md"
    card: Any = None
    text = ""
    if readme.is_file():
        text = readme.read_text(encoding="utf-8", errors="replace")
        try:
            card = ModelCard(text, ignore_metadata_errors=True).data
        except Exception:  # a card that cannot be read says nothing
            card = None
    licence = getattr(card, "license", None) or config.get("pretrained_cfg", {}).get("license")
    entries = re.findall(r"^@\w+\{.*?^\}", text, re.MULTILINE | re.DOTALL)
    is_path = Path(name).expanduser().exists()
    commit = folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else None
    return {
        "source": Path(name).name if is_path else name,
        "revision": commit,
        "license": licence,
        "citation": "\n".join(entries) or None,
    }


__all__ = ["SourceReport", "convert_from_source"]

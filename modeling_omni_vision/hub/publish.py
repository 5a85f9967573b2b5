"""Publish a checkpoint: write a folder that anyone can load, prove that it loads, only then show or push it.

The same for encoders, classifiers, autoencoders, retrieval and vision-language models of ours, which bring their code,
and for the native twin, a stock model without code.
"""

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from packaging.version import Version
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers import __version__ as transformers_version

from .. import OmniVisionForImageClassification, OmniVisionForMaskedImageModeling, OmniVisionModel
from ..interop.export import open_checkpoint, read_record
from ..interop.export.exported import EXPORT_FILE
from ..interop.folder import atomic_output_dir, write_preprocess
from ..interop.to_native import NATIVE_CLASSES
from ..records.metrics_file import METRICS_FILE
from ..records.weights_digest import weights_digest
from .card import CARD_NAME, render_card
from .card_context import IMAGES, IMAGES_NAME, checked_metrics
from .clean_process import KINDS, WITH_TEXT, outputs_of_folder
from .formatting import basename
from .proof import (
    PROOF_NAME,
    OpeningError,
    compare,
    file_hashes,
    open_in_clean_process,
    release_name,
    rounding,
    write_proof,
)
from .remote_code import python_files, write_note
from .verify import check_content, check_files


logger = logging.getLogger(__name__)

MODEL_CLASSES: list[Any] = [OmniVisionModel, OmniVisionForImageClassification, OmniVisionForMaskedImageModeling]
MODEL_CLASSES += NATIVE_CLASSES
if Version(transformers_version) >= Version("5.23"):
    from .. import OmniVisionForConditionalGeneration, OmniVisionForRetrieval, OmniVisionVAE

    MODEL_CLASSES += [OmniVisionForRetrieval, OmniVisionForConditionalGeneration, OmniVisionVAE]
# Where a model was loaded from, which transformers writes into some configurations.
ORIGINS = ("_name_or_path", "name_or_path", "is_local", "local_files_only")
# A reader of the card downloads all images.
MAX_IMAGE_BYTES = 150_000


@dataclass(frozen=True)
class Published:
    """A folder that was published."""

    folder: Path
    release: str  # revision that names its content, `r-` and twelve hexadecimal digits
    digest: str  # of its proof, for users who check that the folder is the one you wrote
    difference: float  # largest, between our outputs and those of the clean process
    url: str | None = None  # commit on the Hub, None if it was not pushed


def publish(
    model: str | Path,
    output: str | Path,
    repo_id: str | None = None,
    push: bool = False,
    template: str | Path | None = None,
    private: bool = False,
    export: str | Path | None = None,
) -> Published:
    """
    Write a checkpoint as a folder for the Hub, load it in a clean process, compare outputs, and push it if asked.

    The folder appears complete or not at all. It replaces only one that this function wrote and nobody changed.

    Args:
        model: Folder of a model of ours or of its native twin, with its processor and, for all but a bare
            encoder, metrics.json. The dtype of weights is kept; images of `plots` are copied.
        output: Folder to write.
        repo_id: Repository that the card names and that `push` goes to, `owner/name`.
        push: Upload to the Hub in one commit, and tag it with the release. Other files there are left, with a warning.
        template: Template of the model card, by default the one for this kind of model.
        private: Make the repository private, if it is made.
        export: Folder that `export_model` wrote in the format onnx from the same weights: its graphs go along, where
            transformers.js looks for them.

    Raises:
        `ValueError`: for a checkpoint or an output that cannot be published.
        OpeningError: if the folder does not load without our package, or computes something else there.
    """
    source, target = Path(model), Path(os.path.abspath(output))
    if push and not repo_id:
        raise ValueError("Pushing needs the repository as `repo_id`, expected 'owner/name', got None. Name it.")
    with replacing(target) as folder:
        write_checkpoint(source, folder)
        if export is not None:
            copy_export(Path(export), source, folder)
        ours = outputs_of_folder(source, trust_remote_code=False)
        theirs = open_in_clean_process(folder, bool(python_files(folder)))
        # The same computation on the same machine: pixels may differ by rounding too, not by one of 255 values.
        largest, wrong = compare(theirs, ours, {name: rounding(output) for name, output in ours.items()})
        if wrong:
            raise OpeningError(
                f"A clean process must compute what we do, got {wrong!r}. The published code or configuration lacks "
                "something that the checkpoint needs; nothing was published."
            )
        card = render_card(folder, repo_id or target.name, template)
        (folder / CARD_NAME).write_text(card, encoding="utf-8", newline="\n")
        command = f"omni-vision publish --model {source.name} --output {target.name}"
        digest = write_proof(folder, theirs, command + (f" --repo_id {repo_id}" if repo_id else ""))
        failures = check_files(folder) + check_content(folder)
        if failures:
            raise ValueError(f"The folder must pass verification, got {failures!r}. Correct the card template.")
    release = release_name(file_hashes(target))
    url = push_folder(target, repo_id, release, private) if push and repo_id else None
    return Published(target, release, digest, largest, url)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a staging folder that replaces `target` if the block raises nothing and `target` may be replaced."""
    is_published = (target / PROOF_NAME).exists()
    if is_published and (changed := check_files(target)):
        raise ValueError(
            f"The output may be a folder that publish wrote and nobody changed, got {str(target)!r} with {changed!r}. "
            "Name another folder, or delete this one."
        )
    new, old = (target.with_name(f".{target.name}.{os.getpid()}.{kind}") for kind in ("new", "old"))
    with atomic_output_dir(new if is_published else target) as folder:
        yield folder
    if is_published:
        target.rename(old)
        new.rename(target)
        shutil.rmtree(old)


def write_checkpoint(source: Path, folder: Path) -> None:
    """Write code, configuration, weights, processor, numbers, images, REMOTE_CODE.md; refuse what is incomplete."""
    model = load_model(source)
    metrics = checked_metrics(source)
    if metrics:
        text = json.dumps(without_paths(metrics), indent=2) + "\n"
        if re.search(r"\bhf_[A-Za-z0-9]{20,}", text):
            raise ValueError(f"{METRICS_FILE} must hold no access token, got one in {str(source)!r}. Revoke it.")
        (folder / METRICS_FILE).write_text(text, encoding="utf-8", newline="\n")
    elif "For" in type(model).__name__:
        raise ValueError(
            f"A {type(model).__name__} is published with its numbers, expected {METRICS_FILE} in {str(source)!r}, got "
            "none. Run omni-vision evaluate on a classifier; copy the file of the run that trained any other model."
        )
    processor = load_processor(source, model.config.model_type)
    # Never in shards: a folder is one file of weights, so that its header tells its size.
    model.save_pretrained(folder, max_shard_size="1TB")
    processor.save_pretrained(folder)
    forget_origins(folder)
    copy_images(source, folder)
    if python_files(folder):
        write_note(folder)
    else:
        write_preprocess(folder)  # for transformers.js, whose own resizer gives other pixels


def copy_export(export: Path, source: Path, folder: Path) -> None:
    """Copy the graphs of an export and what was measured of them; refuse one of other weights, or for other pixels."""
    record = read_record(export)
    problems = [f"the format {record['format']!r}"] if record["format"] != "onnx" else []
    problems += ["raw pixels (--uint8)"] if record["uint8"] else []
    # transformers.js reads both outputs of an encoder.
    problems += ["no tokens (--outputs vector)"] if record.get("outputs") == "vector" else []
    problems += ["other weights"] if record.get("weights") != weights_digest(open_checkpoint(source).model) else []
    if problems:
        raise ValueError(
            f"The export must be ONNX of the weights in {str(source)!r} with pixels as its processor makes them, got "
            f"{', '.join(problems)} in {str(export)!r}. Export it again: omni-vision export --format onnx."
        )
    for name in record["files"]:
        for file in export.glob(f"{name}*"):  # weights beyond 2 GB lie beside the graph
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, (folder / name).parent / file.name)
    shutil.copyfile(export / EXPORT_FILE, folder / EXPORT_FILE)
    write_preprocess(folder)


def load_processor(source: Path, model_type: str) -> Any:
    """Load the image processor, of a model with a text part the whole processor; refuse a folder that lacks it."""
    several = KINDS.get(model_type) in WITH_TEXT
    auto_class = AutoProcessor if several else AutoImageProcessor
    try:
        processor = auto_class.from_pretrained(source, trust_remote_code=False)
        # Where one part is missing transformers gives the other, or an error of its own.
        if several and not isinstance(processor, ProcessorMixin):
            raise ValueError(f"only a {type(processor).__name__}.")
    except (AttributeError, OSError, TypeError, ValueError) as error:
        what = "processor and tokenizer" if several else "image processor"
        raise ValueError(f"Expected the {what} of the model in {str(source)!r}, got {error} Save it there.") from error
    return processor


def forget_origins(folder: Path) -> None:
    """Remove from configurations where models were loaded from; files without such an entry keep their bytes."""
    for path in folder.glob("*config.json"):
        text = path.read_text(encoding="utf-8")
        if any(f'"{name}"' in text for name in ORIGINS):
            kept = json.loads(text, object_hook=lambda found: {k: found[k] for k in found if k not in ORIGINS})
            path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def copy_images(source: Path, folder: Path) -> None:
    """Copy the images of results, those that are too large for a card smaller, and no other file beside them."""
    for image in filter(Path.is_file, (source / IMAGES_NAME / f"{name}.png" for name in IMAGES)):
        (folder / IMAGES_NAME).mkdir(parents=True, exist_ok=True)
        shrink_image(image, folder / IMAGES_NAME / image.name)


def shrink_image(image: Path, copy: Path) -> None:
    """Copy a PNG, with fewer colours and then fewer pixels until it has at most `MAX_IMAGE_BYTES`."""
    shutil.copyfile(image, copy)
    if copy.stat().st_size <= MAX_IMAGE_BYTES:
        return
    with Image.open(image) as opened:
        drawn = opened.convert("RGB")
    fraction = 1.0
    while copy.stat().st_size > MAX_IMAGE_BYTES:
        size = (max(1, round(drawn.width * fraction)), max(1, round(drawn.height * fraction)))
        drawn.resize(size, Image.Resampling.LANCZOS).quantize().save(copy, optimize=True)
        fraction *= 0.8
    logger.warning("%s is published smaller: an image beside a card has at most %d bytes.", image, MAX_IMAGE_BYTES)


def without_paths(value: Any) -> Any:
    """Copy JSON with every path of this machine shortened to its last part."""
    if isinstance(value, dict):
        return {name: without_paths(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    return basename(value) if isinstance(value, str) else value


def load_model(source: Path) -> PreTrainedModel:
    """Load the model of a checkpoint with our classes or stock ones; refuse a foreign, incomplete or infinite one."""
    if not (source / "config.json").is_file():
        raise ValueError(f"Expected a folder with config.json that `save_pretrained` wrote, got {str(source)!r}.")
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    architecture = (config.architectures or ["none"])[0]
    classes = {model_class.__name__: model_class for model_class in MODEL_CLASSES}
    if architecture not in classes:
        raise ValueError(
            f"The checkpoint must hold one of {', '.join(classes)}, got {architecture!r} in {str(source)!r}. "
            "Name one of our checkpoints or a native twin."
        )
    model, report = classes[architecture].from_pretrained(source, dtype="auto", output_loading_info=True)
    wrong = {kind: sorted(map(str, keys)) for kind, keys in report.items() if keys}
    if wrong:
        raise ValueError(
            f"The weights in {str(source)!r} must be exactly those of {architecture}, got {wrong!r}. Save it again."
        )
    broken = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(
            f"Weights must be finite to be published, got NaN or infinity in {broken[:5]!r} of {str(source)!r}. "
            "Publish an earlier checkpoint."
        )
    return model.eval()


def push_folder(folder: Path, repo_id: str, release: str, private: bool = False) -> str:
    """Upload a published folder in one commit, tag it with its release, and return the address of the commit."""
    api = HfApi()
    api.create_repo(repo_id, exist_ok=True, private=private)
    commit = api.upload_folder(folder_path=folder, repo_id=repo_id, commit_message=f"Publish {release}")
    api.create_tag(repo_id, tag=release, revision=commit.oid, exist_ok=True)
    ours = {*file_hashes(folder), PROOF_NAME, ".gitattributes"}
    stray = sorted({*api.list_repo_files(repo_id, revision=commit.oid)} - ours)
    if stray:
        logger.warning(
            "%s also holds %s, which no proof covers: verify reports them until you delete them.", repo_id, stray
        )
    return str(commit.commit_url)


__all__ = ["Published", "publish"]

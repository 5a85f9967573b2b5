"""Draw what a model attends to, by its kind: attention, per-token similarity or occlusion maps, as PNG.

An encoder or a classifier: the attention of CLS in the last layer over image files.

    omni-vision visualize --model checkpoints/omni-vision-fashion-mnist --images my_images --output maps

Images that cannot be read are named, also in skipped.jsonl beside the maps, and the exit status is then 3;
--on_error stop refuses them.

A retrieval checkpoint: a similarity map of each word, the attention of CLS, and which token wins each word.

    omni-vision visualize --model runs/search --image image.png --text "a red circle" --output maps

A vision-language model: for questions of a dataset the patches that the answers need.

    omni-vision visualize --model runs/vlm --dataset scenes --split test --count 12 --output maps

The checkpoint's code runs (`trust_remote_code`); pass a `--revision` for checkpoints that are not yours.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .arguments import REVISION, option, parse
from .model_kind import CLASSIFIER, ENCODER, LANGUAGE, RETRIEVAL, VAE, check_kind
from .predict import end_unreadable, list_images
from .program import program


@dataclass
class VisualizeArguments:
    """What to draw, of which model."""

    model: str = option("Folder or Hub id of an encoder, classifier, retrieval or vision-language model.")
    output: str = option("Folder to write PNG files into.", folder=True)
    images: list[str] = option("Encoder and classifier: files and folders of images.", [])
    image: str | None = option("Retrieval: file of the image.", None)
    text: str | None = option("Retrieval: words to look for in it.", None, words=True)
    dataset: str = option("Vision-language: questions, as for train-language.", "scenes")
    split: str = option("Vision-language: split whose first images are drawn.", "test")
    on_error: str = option(
        "stop or skip, for files of --images that cannot be read.", "skip", choices=("stop", "skip")
    )
    count: int = option(
        "Images to draw, the first of more; vision-language: each with its n-th question in turn.", 12, least=1
    )
    revision: str | None = option(REVISION, None)


def visualize_attention(arguments: VisualizeArguments, kind: str) -> Iterator[Path]:
    """Draw the attention of an encoder or a classifier over image files; then name those that cannot be read."""
    import torch
    from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

    from ..data.image_files import stored_path
    from ..data.integrity import read_each, refuse_unreadable
    from ..interop.vision_tower import load_complete
    from ..interpretability.plots import plot_attention

    if arguments.image or arguments.text:
        raise ValueError(
            "Only a retrieval checkpoint looks for the words of --text in --image, got one of them for another model. "
            "Leave them out, and name files as --images."
        )
    every = list_images(arguments.images)
    files = [one.file for one in every[: arguments.count]]
    if len(files) < len(every):
        print(f"The first {len(files)} of {len(every):,} images; --count {len(every)} draws all.", file=sys.stderr)
    trust: dict[str, Any] = {"trust_remote_code": True, "revision": arguments.revision}
    auto_class = AutoModelForImageClassification if kind == CLASSIFIER else AutoModel
    opened = load_complete(auto_class, arguments.model, **trust)
    opened = opened.vision_model if kind == VAE else opened
    if not hasattr(opened, "attention_maps"):
        raise ValueError(f"Expected an OmniVision model in {arguments.model!r}, got {type(opened).__name__}.")
    processor = AutoImageProcessor.from_pretrained(arguments.model, **trust)

    def prepare(batch: Sequence[Path]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return of each image the pixels that the model takes, and those of 0..1 that are drawn."""
        names = [str(file) for file in batch]
        both = [processor(names, return_tensors="pt", **how)["pixel_values"] for how in ({}, {"do_normalize": False})]
        return list(zip(*both, strict=True))

    read, failed = read_each(files, prepare)
    broken = [(stored_path(file), reason) for file, reason in failed]
    if broken and (arguments.on_error == "stop" or not read):
        refuse_unreadable(broken, len(files), "stop")
    taken, drawn = (torch.stack([pair[place] for _, pair in read]) for place in (0, 1))
    with torch.inference_mode():
        maps = opened.attention_maps(taken)[:, 0].float().numpy()
    # Pixel values 0..255 of the model's size, (images, height, width, channels).
    shown, captions = [*(drawn.permute(0, 2, 3, 1) * 255).numpy()], [file.name for file, _ in read]
    yield plot_attention(shown, maps, captions, Path(arguments.output) / "attention.png")
    end_unreadable(broken, len(files), Path(arguments.output))


def visualize_retrieval(arguments: VisualizeArguments, kind: str) -> list[Path]:
    """Draw the similarity maps of a text in an image."""
    from ..retrieval.similarity_maps import visualize

    if not arguments.image or not arguments.text:
        raise ValueError(
            "A retrieval checkpoint needs --image and --text, got "
            f"{arguments.image!r} and {arguments.text!r}. Give both."
        )
    if arguments.images:
        raise ValueError("A retrieval checkpoint looks at one image, got --images too. Leave that out.")
    return visualize(arguments.model, arguments.image, arguments.text, Path(arguments.output), arguments.revision)


def visualize_answers(arguments: VisualizeArguments, kind: str) -> list[Path]:
    """Draw which patches the answers of a vision-language model need."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from ..data.questions import load_questions
    from ..data.stored_images import open_stored
    from ..image_processing_omni_vision import read_image
    from ..interop.vision_tower import load_complete
    from ..interpretability.occlusion import explain_answer, plot_occlusion

    if arguments.image or arguments.text or arguments.images:
        raise ValueError(
            "A vision-language model is asked the questions of --dataset, got --image, --images or --text too. Leave "
            "them out, or use omni-vision ask."
        )
    data = load_questions(arguments.dataset)
    if arguments.split not in data:
        raise ValueError(f"Expected a split of {[*data]}, got {arguments.split!r}. Name one of them.")
    trust: dict[str, Any] = {"trust_remote_code": True, "revision": arguments.revision}
    processor = AutoProcessor.from_pretrained(arguments.model, **trust)
    model = load_complete(AutoModelForImageTextToText, arguments.model, **trust)
    # Images between which a conversation goes on would need more than a line.
    rows = [row for row in data[arguments.split] if len(row["images"]) == 1][: arguments.count]
    images, found, truths = [], [], []
    for number, row in enumerate(rows):
        question = row["questions"][number % len(row["questions"])]
        text = question["messages"][-1]["content"].replace("<image>", "").strip()
        images.append(read_image(row["images"][0]))
        found.append(explain_answer(model, processor, open_stored(row["images"][0]), text))
        truths.append(question["answer"])
    return [plot_occlusion(images, found, truths, Path(arguments.output) / "answers.png")]


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(VisualizeArguments, argv)
    kind = check_kind(arguments.model, ENCODER, CLASSIFIER, VAE, RETRIEVAL, LANGUAGE, revision=arguments.revision)
    kinds: dict[str, Callable[[VisualizeArguments, str], Iterable[Path]]] = {
        RETRIEVAL: visualize_retrieval,
        LANGUAGE: visualize_answers,
    }
    for file in kinds.get(kind, visualize_attention)(arguments, kind):
        print(file)

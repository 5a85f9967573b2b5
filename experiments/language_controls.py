"""Controls of a vision-language model with nothing to recognise, and a projector that is aligned before training.

    python -m experiments.language_controls --image_input symbol_map --dataset scenes \
        --vision_feature_select_strategy grid --config '{"image_size": 64, "patch_size": 8}' --output_dir runs/control

Takes every argument of `omni-vision train-language`. In place of an image `--image_input symbols` gives the model the
truth in words, `symbol_map` the truth in patches (`draw_symbol_map`): what it misses then is not due to recognition.
`--align_steps` first maps patches to the embeddings of the words for what they hold (`align_projector`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from experiments.alignment import align_projector
from experiments.symbol_maps import PATCH, draw_symbol_map
from modeling_omni_vision.cli.arguments import option, parse_training
from modeling_omni_vision.cli.program import program
from modeling_omni_vision.cli.train_language import train_and_print
from modeling_omni_vision.data.stored_images import store
from modeling_omni_vision.data.synthetic.scenes import SCENE_SIDE
from modeling_omni_vision.training.language import LanguageRun
from modeling_omni_vision.training.language_arguments import LanguageArguments, LanguageTrainingArguments
from modeling_omni_vision.training.language_data import Conversations, replace_images


# Sizes of images and of patches that a map of symbols is drawn for.
MAPPED = ((SCENE_SIDE, SCENE_SIDE), (PATCH, PATCH))


@dataclass
class ControlArguments(LanguageArguments):
    """Arguments of `train_language`, with controls of drawn scenes."""

    image_inputs = (*LanguageArguments.image_inputs, "symbols", "symbol_map")
    without_images = (*LanguageArguments.without_images, "symbols")
    of_new_models = (*LanguageArguments.of_new_models, "align_steps")

    image_input: str = option(
        "images, shuffled, nothing, or the truth in words (symbols) or patches (symbol_map).", "images"
    )
    align_steps: int = option("Steps that first align a new projector with word embeddings; 0 disables.", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.align_steps < 0:
            raise ValueError(f"`align_steps` must be at least 0, got {self.align_steps!r}. 0 disables.")


class ControlConversations(Conversations):
    """Conversations about drawn scenes, also with `symbols` (words) or a `symbol_map` in place of an image."""

    with_images = (*Conversations.with_images, "symbol_map")

    def __init__(self, rows: Dataset, processor: Any, image_input: str = "images", *args: Any, **kwargs: Any) -> None:
        self.symbols = rows["symbols"][:]
        most = max(map(len, rows["images"][:]), default=1)
        if image_input == "symbol_map" and most > 1:
            raise ValueError(f"Symbols are of one image, got {most} images in a row. Choose other data.")
        if image_input in ("symbols", "symbol_map") and not all(self.symbols):
            raise ValueError("Expected `symbols` in every row, got none. Choose data that have them, such as scenes.")
        super().__init__(rows, processor, image_input, *args, **kwargs)

    def messages_of(self, question: dict[str, Any], row: int) -> list[dict[str, str]]:
        """Return the messages of a question, with the symbols of its image where they stand in for it."""
        if self.image_input == "symbols":
            return replace_images(question["messages"], self.symbols[row])
        return super().messages_of(question, row)

    def images_of(self, row: int) -> list[Any]:
        """Return the undecoded images of a row, or its map of symbols."""
        if self.image_input == "symbol_map":
            return [store(draw_symbol_map(self.symbols[row])) for _ in range(self.counts[row])]
        return super().images_of(row)


class ControlRun(LanguageRun):
    """The run of a composite under a control; see `ControlArguments`."""

    conversations = ControlConversations

    def start(self, train: Dataset) -> tuple[Any, Any]:
        """Load or compose the composite, and align its projector.

        Raises:
            ValueError: for a tower that maps of symbols do not fit.
        """
        model, processor = super().start(train)
        vision: Any = model.config.vision_config
        if self.recipe.image_input == "symbol_map" and (vision.image_size_hw, vision.patch_size_hw) != MAPPED:
            raise ValueError(
                f"A map of symbols is for towers of {SCENE_SIDE} pixels whose patches have {PATCH}, got "
                f"{vision.image_size_hw} and {vision.patch_size_hw}. Give it a --config with these."
            )
        if self.recipe.align_steps:
            align_projector(model, processor, self.recipe.align_steps, self.args.seed)
        return model, processor

    def words(self, train: Dataset) -> Iterator[str]:
        """Yield the texts whose words a new language model knows, the symbols among them."""
        yield from super().words(train)
        if self.recipe.image_input == "symbols":
            yield from train["symbols"][:]


@program
def main(argv: Sequence[str]) -> None:
    recipe, args = parse_training((ControlArguments, LanguageTrainingArguments), argv, __name__)
    train_and_print(lambda recipe, args: ControlRun(recipe, args).run(), recipe, args)


if __name__ == "__main__":
    main()

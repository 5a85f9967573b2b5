r"""Train a vision-language model to answer questions about images, and measure whether it uses them.

    omni-vision train-language --dataset scenes --vision_feature_select_strategy grid --output_dir runs/vlm \
        --config '{"image_size": 64, "patch_size": 8}' --muon_learning_rate 0.02 --text_muon_learning_rate 0.02

`--dataset` takes scenes (drawn, with questions), easy-vqa, or JSON lines of conversations with images. Stages, each
from the folder of the one before: `--vision mine --text any/language-model --stage projector`, then `--model` with
`--stage lora` or `all`. Controls: `--image_input nothing` (a text-only baseline) or `shuffled`. All of transformers'
TrainingArguments work as well.
On several CPU processes: torchrun --nproc_per_node 2 scripts/train_language.py (the same flags).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .arguments import parse_training
from .model_kind import LANGUAGE, check_kind
from .program import program, run_training


@program
def main(argv: Sequence[str]) -> None:
    from ..training.language_arguments import LanguageArguments, LanguageTrainingArguments

    recipe, args = parse_training((LanguageArguments, LanguageTrainingArguments), argv, __name__)
    if recipe.model is not None:
        check_kind(recipe.model, LANGUAGE)
    from ..training.language import train_language

    train_and_print(train_language, recipe, args)


def train_and_print(train: Callable[[Any, Any], Path], recipe: Any, args: Any) -> None:
    """Train, and print the share of exact answers for each split, input and kind of question."""
    record = run_training(train, recipe, args)
    if record:
        print(f"{'split':11} {'image_input':11} {'questions':12} {'exact':>6} {'95 % interval':>15} {'of':>6}")
    for split, controls in record.get("answers", {}).items():
        for image_input, found in controls.items():
            for kind, value in {"all": found, **found["kinds"]}.items():
                low, high = value["interval"]
                scores = f"{value['accuracy']:6.3f} {low:6.3f} to {high:.3f} {value['questions']:6d}"
                print(f"{split:11} {image_input:11} {kind:12} {scores}")

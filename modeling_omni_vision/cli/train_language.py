"""Train a vision-language model on questions about images, and measure how much of it needs the images.

    omni-vision train-language --dataset scenes --vision_feature_select_strategy grid --output_dir runs/vqa \
        --config '{"image_size": 64, "patch_size": 8}' --muon_learning_rate 0.02 --text_muon_learning_rate 0.02

`--dataset` takes scenes (drawn, with questions), easy-vqa, or JSON lines of conversations with images. Stages, each
from the folder of the one before: `--vision mine --text any/language-model --stage projector`, then `--model` with
`--stage lora` or `all`. Controls: `--image_input nothing` (a text-only baseline) or `shuffled`. All of transformers'
TrainingArguments work as well.
On several CPU processes: torchrun --nproc_per_node 2 scripts/train_language.py (the same flags).
"""

from collections.abc import Sequence
from typing import Any

from .arguments import parse_training
from .program import program, run_training


def train_and_report(argv: Sequence[str], kind: Any = None, train: Any = None) -> None:
    """Train and print a table of answers; experiments give another class of arguments and another function."""
    from ..training.language_arguments import LanguageArguments, LanguageTrainingArguments

    recipe, args = parse_training((kind or LanguageArguments, LanguageTrainingArguments), argv, __name__)
    from ..training.language import train_language

    record = run_training(train or train_language, recipe, args)
    if record:
        print(f"{'split':11} {'image_input':11} {'questions':12} {'exact':>6} {'95 % interval':>15} {'of':>6}")
    for split, controls in record.get("answers", {}).items():
        for image_input, found in controls.items():
            for kind, value in {"all": found, **found["kinds"]}.items():
                low, high = value["interval"]
                scores = f"{value['accuracy']:6.3f} {low:6.3f} to {high:.3f} {value['questions']:6d}"
                print(f"{split:11} {image_input:11} {kind:12} {scores}")


@program
def main(argv: Sequence[str]) -> None:
    train_and_report(argv)

r"""Train a classifier on your images.

    omni-vision train --dataset digits --output_dir runs/digits \
        --config '{"image_size": 16, "patch_size": 4, "num_channels": 1}'

`--dataset` takes digits, shapes, a folder of images, IDX or Parquet files, a saved dataset, or a
dataset of the Hub. All of transformers' TrainingArguments work as well; `--help_all` lists them.
On several CPU processes: torchrun --nproc_per_node 2 scripts/train.py (the same flags).
"""

from collections.abc import Sequence

from .arguments import parse_training
from .program import program, run_training


@program
def main(argv: Sequence[str]) -> None:
    from ..training.arguments import OmniVisionTrainingArguments, RecipeArguments

    recipe, args = parse_training((RecipeArguments, OmniVisionTrainingArguments), argv, __name__)
    from ..training.classification import train

    record = run_training(train, recipe, args)
    if record:
        scores = {
            "validation": record["training"]["validation_accuracy"],
            "test": record.get("test", {}).get("accuracy"),
        }
        words = (f"{name} accuracy {score:.4f}" for name, score in scores.items() if score is not None)
        print(f"{args.output_dir}:", *words)

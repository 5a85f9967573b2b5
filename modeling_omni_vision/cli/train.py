"""Train a classifier on your images.

    accelerate launch scripts/train.py --dataset digits --output_dir runs/digits \
        --config '{"image_size": 16, "patch_size": 4, "num_channels": 1}'

`--dataset` takes digits, shapes, a folder of images, IDX or Parquet files, a saved dataset, or a
dataset of the Hub. All of transformers' TrainingArguments work as well; `--help` lists everything.
On several CPU processes: torchrun --nproc_per_node 2 scripts/train.py (the same arguments).
"""

import json
from collections.abc import Sequence

import torch
from transformers import HfArgumentParser

from ..training.arguments import OmniVisionTrainingArguments, RecipeArguments
from ..training.classification import train
from ..training.interruption import exit_when_interrupted


def main(argv: Sequence[str] | None = None) -> None:
    parser = HfArgumentParser((RecipeArguments, OmniVisionTrainingArguments))  # type: ignore[arg-type]
    recipe, args = parser.parse_args_into_dataclasses(args=None if argv is None else list(argv))
    with exit_when_interrupted():
        folder = train(recipe, args)
    if args.process_index == 0:
        record = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        scores = {
            "validation": record["training"]["validation_accuracy"],
            "test": record.get("test", {}).get("accuracy"),
        }
        print(f"{folder}:", *(f"{name} accuracy {score:.4f}" for name, score in scores.items() if score is not None))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

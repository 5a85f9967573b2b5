r"""Make a tiny encoder out of a big one, on your own images; no labels are needed.

    omni-vision distill --teacher google/vit-base-patch16-224 --images my_images --output_dir runs/student \
        --num_train_epochs 30 --bf16 true

`--teacher` is any vision model of transformers, timm, open_clip or sentence-transformers, or what omni-vision export
wrote; `--images` are files, folders, globs, Parquet files, tars, lists and datasets, from 500 images up. All training
arguments of transformers work as well. The student's vectors lie in the teacher's space, turned to its principal axes.
"""

from collections.abc import Sequence

from .arguments import parse_training
from .program import program, run_training


@program
def main(argv: Sequence[str]) -> None:
    from ..training.distill_arguments import DistillArguments, DistillTrainingArguments

    recipe, args = parse_training((DistillArguments, DistillTrainingArguments), argv, __name__)
    from ..training.distillation import distill

    record = run_training(distill, recipe, args)
    found = record.get("agreement") if record else None
    if found:
        print(
            f"held out: {found['images']:,} images; overlap of ten neighbours with the teacher "
            f"{found['overlap']:.3f}, cosine {found['cosine']:.3f}"
        )

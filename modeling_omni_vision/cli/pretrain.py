r"""Train an encoder on images without labels: it learns to paint the patches that masks hide.

    omni-vision pretrain --dataset my_images --output_dir runs/pretrained \
        --config '{"image_size": 64, "patch_size": 8}'
    omni-vision train --model runs/pretrained --dataset my_labelled_images --output_dir runs/classifier

`--dataset` takes what omni-vision train does, and folders without classes. All of transformers' TrainingArguments work
as well; `--help_all` lists them. `reconstructions.png` in the folder of the run shows what was learned.
"""

from collections.abc import Sequence

from .arguments import parse_training
from .program import program, run_training


@program
def main(argv: Sequence[str]) -> None:
    from ..training.pretrain_arguments import PretrainArguments, PretrainTrainingArguments

    recipe, args = parse_training((PretrainArguments, PretrainTrainingArguments), argv, __name__)
    from ..training.pretraining import pretrain

    record = run_training(pretrain, recipe, args)
    found = record.get("reconstruction") if record else None
    if found:
        print(
            f"{args.output_dir}: validation loss {found['loss']:.4f}; masked pixels are {found['levels']:.1f} of 255 "
            f"levels off, {found['levels_of_mean_colour']:.1f} in the mean colour of the visible ones"
        )

r"""Train a variational autoencoder on your images, which reconstructs them and draws new ones; no labels are needed.

    omni-vision train-vae --dataset my_images --output_dir runs/vae --latent_size 32 \
        --config '{"image_size": 32, "patch_size": 4}' --num_train_epochs 30

`--dataset` takes digits, shapes, a folder of images, IDX or Parquet files, a saved dataset, or a dataset of the Hub.
The folder holds the model, lower bounds of the log-probability of held-out images (metrics.json), and
reconstructions, samples and an interpolation as PNG (plots). All of transformers' TrainingArguments work as well.
On several CPU processes: torchrun --nproc_per_node 2 scripts/train_vae.py (the same flags).
"""

from collections.abc import Sequence

from .arguments import parse_training
from .model_kind import VAE, check_kind
from .program import program, run_training


@program
def main(argv: Sequence[str]) -> None:
    from ..training.vae_arguments import VaeArguments, VaeTrainingArguments

    recipe, args = parse_training((VaeArguments, VaeTrainingArguments), argv, __name__)
    if recipe.model is not None:
        check_kind(recipe.model, VAE)
    from ..training.vae import train_vae

    record = run_training(train_vae, recipe, args)
    for split, found in (record.get("generation") or {}).items():
        low, high = found["elbo_interval"]
        print(
            f"{split}: bound {found['elbo']:.1f} nats ({low:.1f} to {high:.1f}), "
            f"{found['bits_per_dimension']:.3f} bits per dimension, {found['images']:,} images"
        )

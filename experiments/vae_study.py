r"""Does a ViT-VAE code images as well as a convolutional one of the same size? Measured on Fashion-MNIST.

    python -m experiments.vae_study --dataset data/fashion_mnist --runs runs/vae --output docs/runs/vae.json

All have likelihood, latent size, parameters (within some percent), images and steps in common. Each gets the learning
rate that validation chooses of the same list, in short runs, and ends with its best weights by validation. AdamW
trains them; the ViT also with Muon for the matrices of its layers, as other recipes do, which convolutions do not get.
Then the test split is opened once for each. Writes the record, and the sheets of the ViT-VAE into `--sheets`; a
stopped study goes on with the same command.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modeling_omni_vision.cli.arguments import option, parse
from modeling_omni_vision.cli.program import program
from modeling_omni_vision.configuration_omni_vision_vae import OmniVisionVAEConfig
from modeling_omni_vision.data.image_dataset import ImageDataset
from modeling_omni_vision.data.sources import load_unlabelled
from modeling_omni_vision.evaluation.bounds import Bounds, mean_interval, measure_bounds
from modeling_omni_vision.evaluation.test_split import open_test_split
from modeling_omni_vision.image_processing_omni_vision import OmniVisionImageProcessor
from modeling_omni_vision.interop.vision_tower import load_complete
from modeling_omni_vision.interpretability.generation_sheets import draw_generations
from modeling_omni_vision.modeling_omni_vision import OmniVisionModelOutput
from modeling_omni_vision.modeling_omni_vision_vae import OmniVisionVAE
from modeling_omni_vision.records.command import recorded_command
from modeling_omni_vision.records.metrics_file import merge_metrics, read_metrics, write_json
from modeling_omni_vision.training.checkpoints import complete_checkpoints
from modeling_omni_vision.training.vae import train_vae
from modeling_omni_vision.training.vae_arguments import VaeArguments, VaeTrainingArguments


VISION: dict[str, Any] = {
    "image_size": 28,
    "patch_size": 4,
    "num_channels": 1,
    "hidden_size": 64,
    "num_hidden_layers": 3,
}
VISION |= {"intermediate_size": 128, "attn_implementation": "eager"}
DECODER = {"num_hidden_layers": 3}
LATENT_SIZE, SAMPLES, SEED = 16, 8, 0
LEARNING_RATES, MUON_LEARNING_RATE, VALIDATION_IMAGES = (1e-3, 3e-3), 0.02, 1000
COARSEST = 4  # rows and columns of the last feature map of 28 pixels


class ConvolutionalEncoder(nn.Module):
    """Three convolutions of stride 2 and a linear layer."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        widths = (1, channels, 2 * channels, 2 * channels)
        parts: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            parts += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU()]
        flat = widths[-1] * COARSEST**2
        self.layers = nn.Sequential(*parts, nn.Flatten(), nn.Linear(flat, size), nn.GELU())

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> OmniVisionModelOutput:
        """Encode images as a vector each."""
        return OmniVisionModelOutput(pooler_output=self.layers(pixel_values))


class ConvolutionalDecoder(nn.Module):
    """A linear layer and three transposed convolutions: 4, 7, 14 and 28 pixels."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.layers = nn.Sequential(
            *(nn.GELU(), nn.Linear(size, wide * COARSEST**2), nn.GELU(), nn.Unflatten(1, (wide, COARSEST, COARSEST))),
            *(nn.ConvTranspose2d(wide, wide, 3, stride=2, padding=1), nn.GELU()),
            *(nn.ConvTranspose2d(wide, channels, 4, stride=2, padding=1), nn.GELU()),
            nn.ConvTranspose2d(channels, 1, 4, stride=2, padding=1),
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Decode vectors to images."""
        return self.layers(hidden_states)


class ConvolutionalVAE(OmniVisionVAE):
    """An `OmniVisionVAE` with convolutions in place of encoder and decoder, of as many parameters as these."""

    _auto_class = None  # its code does not travel

    def __init__(self, config: OmniVisionVAEConfig) -> None:
        super().__init__(config)
        replaced = sum(one.numel() for part in (self.vision_model, self.decoder) for one in part.parameters())
        vision: Any = config.vision_config
        size = vision.hidden_size
        parts = [lambda width, kind=kind: kind(width, size) for kind in (ConvolutionalEncoder, ConvolutionalDecoder)]
        width = min(range(4, 65), key=lambda width: abs(replaced - sum(count(part, width) for part in parts)))
        self.vision_model, self.decoder = (part(width) for part in parts)


def count(make: Callable[[int], nn.Module], width: int) -> int:
    """Return the parameters of a part."""
    with torch.device("meta"):
        return sum(one.numel() for one in make(width).parameters())


VIT, CONVOLUTIONAL, WITH_MUON = "ViT", "convolutional", "ViT with Muon"
MODELS: dict[str, type[OmniVisionVAE]] = {
    CONVOLUTIONAL: ConvolutionalVAE,
    WITH_MUON: OmniVisionVAE,
    VIT: OmniVisionVAE,
}


@dataclass
class Study:
    """The data, the folder of the runs, and the lengths of short and long ones."""

    dataset: str
    runs: Path
    steps: int
    trial_steps: int
    batch_size: int

    def train(self, name: str, learning_rate: float, trial: bool) -> Path:
        """Train one model, or go on where its run was stopped; a run that has ended is taken as it is."""
        folder = self.runs / f"{name.replace(' ', '-')}{f'-{learning_rate:g}' if trial else ''}"
        if "training" in read_metrics(folder):
            return folder
        steps = self.trial_steps if trial else self.steps
        recipe = VaeArguments(
            dataset=self.dataset,
            validation_fraction=VALIDATION_IMAGES,
            config=json.dumps(VISION),
            decoder_config=json.dumps(DECODER),
            latent_size=LATENT_SIZE,
            muon_learning_rate=MUON_LEARNING_RATE if name == WITH_MUON else 0.0,
        )
        args = VaeTrainingArguments(
            output_dir=str(folder),
            learning_rate=learning_rate,
            max_steps=steps,
            per_device_train_batch_size=self.batch_size,
            eval_strategy="steps",
            save_strategy="steps",
            eval_steps=max(steps // 4, 1),
            save_steps=max(steps // 4, 1),
            logging_steps=max(steps // 20, 1),
            seed=SEED,
            do_predict=False,
            disable_tqdm=True,
            resume_from_checkpoint="true" if complete_checkpoints(folder) else None,
        )
        return train_vae(recipe, args, MODELS[name])

    def chosen(self, name: str) -> tuple[float, dict[str, float]]:
        """Return the learning rate whose short run has the lowest validation loss, and all of these losses."""
        losses = {}
        for rate in LEARNING_RATES:
            losses[rate] = read_metrics(self.train(name, rate, trial=True))["training"]["best"]["loss"]
        return min(losses, key=lambda rate: losses[rate]), {f"{rate:g}": loss for rate, loss in losses.items()}


def study_vae(study: Study, sheets: Path, command: str) -> dict[str, Any]:
    """Train, choose on validation, open the test split once for each model, and compare them by image."""
    found: dict[str, Any] = {}
    per_image: dict[str, Bounds] = {}
    chosen = {name: study.chosen(name) for name in MODELS}
    folders = {name: study.train(name, chosen[name][0], trial=False) for name in MODELS}
    data = load_unlabelled(study.dataset, validation_fraction=VALIDATION_IMAGES)
    for name, folder in folders.items():
        model = load_complete(MODELS[name], folder, dtype=torch.float32)
        processor = OmniVisionImageProcessor.from_pretrained(folder)
        opened = open_test_split(folder, model, data["test"], study.dataset, command)
        per_image[name] = measure_bounds(model, ImageDataset(data["test"], processor), SAMPLES, SEED)
        training = read_metrics(folder)["training"]
        test = {"test": per_image[name].section()}
        merge_metrics(folder, {"generation": test, **opened.section(None)})
        kept = ("parameters", "steps", "minutes", "resumed_from", "best", "machine", "versions")
        found[name] = {
            "learning_rate": chosen[name][0],
            "trial_losses": chosen[name][1],
            **{key: training[key] for key in kept},
            **test,
        }
        if name == WITH_MUON:
            draw_generations(model, processor, ImageDataset(data["validation"], processor), sheets)
    return {
        "models": found,
        "difference": {
            name: {kind: difference(per_image[name], per_image[CONVOLUTIONAL], kind) for kind in ("elbo", "weighted")}
            for name in (VIT, WITH_MUON)
        },
        "config": {"vision": VISION, "decoder": DECODER, "latent_size": LATENT_SIZE, "beta": 1.0},
        "images": {split: len(rows) for split, rows in data.items()},
        "steps": study.steps,
        "trial_steps": study.trial_steps,
        "batch_size": study.batch_size,
        "seed": SEED,
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
    }


def difference(ours: Bounds, other: Bounds, kind: str) -> dict[str, Any]:
    """Return the mean of paired differences of a bound in nats, with its interval over images."""
    found = getattr(ours, kind) - getattr(other, kind)
    return {"mean": float(found.mean()), "interval": mean_interval(found)}


@dataclass
class StudyArguments:
    """The data, and what to write."""

    dataset: str = option("Folder of Fashion-MNIST, with its four IDX files.")
    runs: str = option("Folder of the runs.")
    output: str = option("JSON file of the record.")
    sheets: str = option("Folder of the sheets.", "docs/generation")
    steps: int = option("Steps of the final runs.", 600)
    trial_steps: int = option("Steps of the runs that choose a learning rate.", 100)
    batch_size: int = option("Images per step.", 64)


@program
def main(argv: Sequence[str]) -> None:
    """Run the study."""
    given = parse(StudyArguments, argv)
    study = Study(given.dataset, Path(given.runs), given.steps, given.trial_steps, given.batch_size)
    command = recorded_command("python", ["-m", "experiments.vae_study", *argv])
    record = study_vae(study, Path(given.sheets), command)
    write_json(Path(given.output), record)
    for name, found in record["models"].items():
        print(f"{name}: {found['parameters']:,} parameters, test bound {found['test']['elbo']:.1f} nats")
    print(f"difference to the convolutional one: {record['difference']}")


if __name__ == "__main__":
    main()

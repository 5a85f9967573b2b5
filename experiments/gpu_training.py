"""Runs of the short Fashion-MNIST recipe in one process, timed step by step; works with older builds of the package.

    python -m experiments.gpu_training --data FOLDER --output out.json --runs '[{"name": "a", "batch": 256}]'

Only images per second over warm steps count: from `--warm` on, without evaluation. The time from the end of imports to
the first step is that of the first run, whose images are read and decoded.
"""

import argparse
import functools
import json
import shutil
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from modeling_omni_vision.training import classification
from modeling_omni_vision.training.arguments import OmniVisionTrainingArguments, RecipeArguments
from modeling_omni_vision.training.trainer import OmniVisionTrainer


SHAPE = {"image_size": 28, "patch_size": 4, "num_channels": 1, "patch_drop_rate": 0.5, "pooling": "mean"}
CONFIG = SHAPE | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "attn_implementation": "eager"}
RECIPE: dict[str, Any] = {"muon_learning_rate": 0.02, "flip": True, "max_translate": 1, "ema_decay": 0.99}
TRAINING: dict[str, Any] = {
    "learning_rate": 1.2e-3,
    "weight_decay": 0.05,
    "label_smoothing_factor": 0.1,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.03,
    "num_train_epochs": 5,
}
FIXED: dict[str, Any] = {"do_predict": False, "eval_strategy": "no", "save_strategy": "no", "disable_tqdm": True}
IMPORTED = time.perf_counter()


class Clock(TrainerCallback):
    """Notes seconds at the end of the warm-up and of the last step, with the device's work done."""

    def __init__(self, warm: int) -> None:
        self.warm, self.first = warm, 0.0
        self.ticks: list[tuple[int, float]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note when the first step begins."""
        self.first = self.first or time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the seconds of warm steps."""
        if state.global_step in (self.warm, state.max_steps):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ticks.append((state.global_step, time.perf_counter()))


def timed_run(data: str, run: dict[str, Any], warm: int) -> dict[str, Any]:
    """Train once and return images per second over warm steps, the losses, and the accuracy on validation."""
    clock, original, trainers = Clock(run.get("warm", warm)), OmniVisionTrainer.train, []

    def train(self: OmniVisionTrainer, *args: Any, **kwargs: Any) -> Any:
        self.add_callback(clock)
        trainers.append(self)
        return original(self, *args, **kwargs)

    OmniVisionTrainer.train = train  # type: ignore[method-assign]
    output = tempfile.mkdtemp()
    config = json.dumps(CONFIG | run.get("config", {}))
    recipe = RecipeArguments(
        dataset=data, validation_fraction=run.get("held_out", 5000), config=config, **RECIPE | run.get("recipe", {})
    )
    options = {"bf16": torch.cuda.is_available()} | TRAINING | FIXED | run.get("training", {})
    batch, steps = run["batch"], run.get("max_steps", -1)
    args = OmniVisionTrainingArguments(
        output_dir=output,
        per_device_train_batch_size=batch,
        logging_steps=run.get("logging_steps", 40),
        max_steps=steps,
        **options,
    )
    began = time.perf_counter()
    try:
        classification.train(recipe, args)
        trainer = trainers[0]
        (first, start), (last, end) = clock.ticks[0], clock.ticks[-1]
        history = trainer.state.log_history
        return {
            "images_per_second": (last - first) * batch / (end - start) if last > first else None,
            "ms_per_step": 1e3 * (end - start) / max(last - first, 1),
            "warm_steps": last - first,
            "seconds_to_first_step": clock.first - began,
            "losses": [[entry["step"], entry["loss"]] for entry in history if "loss" in entry],
            "validation": trainer.evaluate() if run.get("evaluate") else None,
            "cuda_graphs": bool(getattr(trainer, "cuda_graphs", False)),
            "images_on": str(getattr(trainer.train_dataset, "labels", torch.zeros(1)).device),
        }
    finally:
        OmniVisionTrainer.train = original  # type: ignore[method-assign]
        shutil.rmtree(output, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Do the runs in turn and write what is known after each."""
    parser = argparse.ArgumentParser()
    for name in ("data", "output", "runs"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--warm", type=int, default=60)
    given = parser.parse_args(argv)
    # Each run reads the same splits.
    classification.load_images = functools.lru_cache(classification.load_images)
    found: dict[str, Any] = {}
    for run in json.loads(given.runs):
        try:
            found[run["name"]] = timed_run(given.data, run, given.warm)
        except Exception:  # the next run shall tell what it can
            found[run["name"]] = {"error": traceback.format_exc()[-2500:]}
        Path(given.output).write_text(json.dumps(found))
        print(run["name"], {key: value for key, value in found[run["name"]].items() if key != "losses"}, flush=True)


if __name__ == "__main__":
    main()

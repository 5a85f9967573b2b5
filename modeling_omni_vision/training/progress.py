"""What a run shows: one progress bar, and one line for each evaluation."""

import sys
import time
from datetime import timedelta
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Progress(TrainerCallback):
    """Shows a bar of all steps and a line at each evaluation; without the bar, a line at each log too."""

    def __init__(self) -> None:
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock and the bar, where a resumed run is."""
        self.began, self.first = time.monotonic(), state.global_step
        if state.is_world_process_zero and not args.disable_tqdm:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, *event: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Show the loss beside the bar, or in a line."""
        if "loss" not in (logs or {}) or not state.is_world_process_zero:
            return
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{logs['loss']:.4f}")
        else:
            print(f"step {state.global_step} of {state.max_steps}: loss {logs['loss']:.4f}", flush=True)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Print epoch, losses, metrics, speed and the time that is left."""
        if state.is_world_process_zero and hasattr(self, "began"):
            tqdm.write(self.line(args, state, metrics or {}), file=sys.stdout)

    def line(self, args: TrainingArguments, state: TrainerState, metrics: dict[str, float]) -> str:
        """Return the line of an evaluation."""
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        words = [f"epoch {state.epoch or 0:.4g} of {state.num_train_epochs:g}"]
        words += [f"loss {losses[-1]:.4f}"] if losses else []
        best = f"eval_{(args.metric_for_best_model or '').removeprefix('eval_')}"
        shown = dict.fromkeys(("eval_loss", "eval_accuracy", best))
        words += [f"{name.replace('eval_', 'validation ')} {metrics[name]:.4f}" for name in shown if name in metrics]
        seconds, steps = time.monotonic() - self.began, state.global_step - self.first
        if steps:
            images = steps * args.train_batch_size * args.world_size * args.gradient_accumulation_steps
            left = timedelta(seconds=round(seconds / steps * (state.max_steps - state.global_step)))
            words += [f"{images / max(seconds, 1e-9):.3g} images/s", f"{left} left"]
        return ", ".join(words)

    def on_train_end(self, *event: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


__all__ = ["Progress"]

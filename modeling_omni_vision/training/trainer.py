"""The transformers Trainer with averaged weights, layer-wise learning rates, and loud failures."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME

from ..modeling_omni_vision import OmniVisionForImageClassification
from .averaging import TRAINED_WEIGHTS_FILE, WeightAverage
from .callbacks import AveragingCallback, CenteringCallback, DataEpochCallback, NonFiniteLossError
from .metrics import accuracy, predicted_classes
from .muon import Muon
from .optimizer import decays, parameter_groups


class PlainFolderTrainer(Trainer):
    """Leaves nothing in its folders but what others can use."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        # A pickle with paths of this machine, which nothing reads back.
        Path(str(output_dir or self.args.output_dir), TRAINING_ARGS_NAME).unlink(missing_ok=True)


class OmniVisionTrainer(PlainFolderTrainer):
    """Trains a classifier on batches of `ImageCollator`.

    Beside what `Trainer` does: with `ema_decay`, averaged weights are evaluated, saved, and what training ends with,
    while checkpoints keep both kinds so that a resumed run equals an uninterrupted one; label smoothing works with
    soft labels and leaves evaluation alone; a non-finite loss or gradient stops training before it reaches the
    weights; evaluation does not touch the random state of training.

    Args:
        model: The classifier to train.
        ema_decay: Decay of the average of weights, 0 for none.
        layer_decay: Learning rate of each layer relative to the one above it.
        muon_learning_rate: Learning rate of Muon, for the matrices of the layers; 0 for AdamW everywhere.
        center_residual: Keep the residual stream at zero mean.
        **kwargs: As for `Trainer`.
    """

    def __init__(
        self,
        model: OmniVisionForImageClassification,
        *,
        ema_decay: float = 0.0,
        layer_decay: float = 1.0,
        muon_learning_rate: float = 0.0,
        center_residual: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, compute_metrics=accuracy, preprocess_logits_for_metrics=predicted_classes, **kwargs)
        self.classifier = model  # `self.model`, with its type
        self.layer_decay, self.muon_learning_rate = layer_decay, muon_learning_rate
        self.label_smoother = None  # knows no soft labels; compute_loss does it
        self.average = WeightAverage(model, ema_decay) if ema_decay else None
        self._rows: list[int] = []
        self.add_callback(DataEpochCallback())
        if center_residual:
            self.add_callback(CenteringCallback())
        if self.average is not None:
            self.add_callback(AveragingCallback(self.average))

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator, which must not divide losses by the accumulation steps.

        The Trainer does so itself; in transformers 5.5 accelerate would do it once more.
        """
        super().create_accelerator_and_postprocess()
        self.accelerator.gradient_accumulation_steps = 1

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as `Trainer` does; the model ends with the best weights, or with the averaged ones."""
        output = super().train(*args, **kwargs)
        if self.average is not None:
            if not (self.args.load_best_model_at_end and self.state.best_model_checkpoint):
                self.average.swap()
            self.average = None
        return output

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, *args: Any, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Compute the model's loss, in training with label smoothing, for hard and soft labels."""
        smoothing = self.args.label_smoothing_factor
        if not smoothing or not model.training:
            return super().compute_loss(model, inputs, return_outputs, *args, **kwargs)
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(outputs.logits.float(), labels, label_smoothing=smoothing)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Do one forward and backward pass.

        Raises:
            NonFiniteLossError: if the loss or a gradient is not finite.
        """
        rows = inputs.pop("rows", None)
        self._rows += [] if rows is None else rows.tolist()
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._check("loss", loss)
        if self.accelerator.sync_gradients:
            # A gradient scaler (fp16) expects overflows now and then, and skips those steps itself.
            if self.accelerator.scaler is None:
                gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
                self._check("gradient norm", torch.nn.utils.get_total_norm(gradients))
            self._rows = []
        return loss

    def _check(self, name: str, value: torch.Tensor) -> None:
        if not torch.isfinite(value):
            raise NonFiniteLossError(
                f"Expected a finite {name}, got {float(value)} at step {self.state.global_step + 1}, in the batch of "
                f"rows {self._rows} of the training split. The weights were not changed by it and earlier checkpoints "
                "are intact: look at these images, lower the learning rate, or use bf16 in place of fp16."
            )

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Name the parameters that weight decay acts on."""
        return [name for name, parameter in model.named_parameters() if decays(name, parameter)]

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Make the optimizer, with a learning rate per layer if layers differ, with Muon if it has one."""
        if self.optimizer is None and (self.layer_decay != 1 or self.muon_learning_rate):
            model, arguments = self.classifier, self.args
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(arguments, model)
            if self.muon_learning_rate and optimizer_class is not torch.optim.AdamW:
                raise ValueError(
                    f"Muon leaves other weights to AdamW, expected `optim` adamw_torch or adamw_torch_fused, got "
                    f"{arguments.optim}. Leave out `optim` or `muon_learning_rate`."
                )
            if self.muon_learning_rate:
                optimizer_class = Muon
            groups = parameter_groups(
                model,
                model.config.num_hidden_layers,
                arguments.learning_rate,
                arguments.weight_decay,
                self.layer_decay,
                self.muon_learning_rate,
            )
            self.optimizer = optimizer_class(groups, **options)
        return super().create_optimizer(*args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the averaged weights, leaving the random state of training as it was."""
        with torch.random.fork_rng(devices=[]):
            if self.average is None or not self.is_in_train:
                return super().evaluation_loop(*args, **kwargs)
            with self.average.applied():
                return super().evaluation_loop(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save a folder that opens with the averaged weights; within training, those trained as well."""
        if self.average is None or not self.is_in_train:
            return super().save_model(output_dir, _internal_call)
        with self.average.applied():
            super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            self.average.save(str(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        averaged = Path(resume_from_checkpoint, TRAINED_WEIGHTS_FILE).is_file()
        if averaged != (self.average is not None):
            raise ValueError(
                f"Expected a checkpoint {'without' if averaged else 'with'} averaged weights, since `ema_decay` is "
                f"{'0' if averaged else 'set'}, got {resume_from_checkpoint}. Resume with the arguments of its run."
            )
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average is not None:
            self.average.load(resume_from_checkpoint)


__all__ = ["OmniVisionTrainer", "PlainFolderTrainer"]

"""The Trainer of classifiers: averaged weights, layer-wise learning rates, label smoothing of soft labels."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import EvalPrediction

from ..evaluation.metrics import balanced_accuracy
from ..evaluation.multi_label import DEFAULT_THRESHOLD, MULTI_LABEL, mean_average_precision
from ..modeling_omni_vision import OmniVisionForImageClassification
from .averaging import TRAINED_WEIGHTS_FILE, WeightAverage
from .callbacks import AfterStepCallback
from .class_balance import BalancedSampler, class_weights
from .classifier_teachers import ClassifierTeachers
from .cuda_graphs import SMALL_MODEL, TrainingGraphs
from .optimizer import decays
from .skeleton import SkeletonTrainer


class OmniVisionTrainer(SkeletonTrainer):
    """Trains a classifier on batches of `ImageCollator`.

    Beside what `SkeletonTrainer` does: with `ema_decay`, averaged weights are evaluated, saved, and what training ends
    with, while checkpoints keep both kinds so that a resumed run equals an uninterrupted one; label smoothing works
    with soft labels and leaves evaluation alone.

    Args:
        model: The classifier to train.
        ema_decay: Decay of the average of weights; 0 disables it.
        layer_decay: Learning rate of each layer relative to the one above it.
        muon_learning_rate: Learning rate of Muon, for the matrices of the layers; 0 for AdamW everywhere.
        center_residual: Keep the residual stream at zero mean.
        class_balance: `weights` of the classes in the loss, or a `sampler` that draws them equally often.
        cuda_graphs: Replay steps as CUDA graphs; see `replays_steps`.
        teachers: Classifiers whose answers are learned beside the labels.
        teacher_weight: Their share of the loss.
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
        class_balance: str | None = None,
        cuda_graphs: bool = False,
        teachers: ClassifierTeachers | None = None,
        teacher_weight: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, compute_metrics=accuracies, preprocess_logits_for_metrics=answers, **kwargs)
        self.layer_decay, self.muon_learning_rate = layer_decay, muon_learning_rate
        self.teachers, self.teacher_weight = teachers, teacher_weight
        data: Any = self.train_dataset
        classes = len(model.config.id2label or ())
        weights = class_weights(data.labels, classes) if class_balance == "weights" else None
        self.class_weights = None if weights is None else weights.to(self.args.device)
        self.balance_samples = class_balance == "sampler"
        self.label_smoother = None  # knows no soft labels; compute_loss does it
        self.average = WeightAverage(model, ema_decay) if ema_decay else None
        self.center_residual, self.cuda_graphs = center_residual, cuda_graphs
        self.graphs: TrainingGraphs | None = None
        self.add_callback(AfterStepCallback(self._after_step))

    def _after_step(self) -> None:
        if self.graphs is None:
            if self.center_residual:
                self.core.center_residual_()
            if self.average is not None:
                # After centring, so that the average is centred too.
                self.average.update()

    def forward_backward(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the loss of a batch and add its gradients, by a CUDA graph if steps are replayed."""

        def loss_of(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return super(OmniVisionTrainer, self).forward_backward(model, batch, *args, **kwargs)

        if not self.cuda_graphs:
            return loss_of(inputs)
        if self.graphs is None:
            # Only now: a resumed run has given the optimizer its state.
            accelerated: Any = self.optimizer
            optimizer, center = accelerated.optimizer, self.core.center_residual_ if self.center_residual else None
            self.graphs = TrainingGraphs(self.core, optimizer, self.args.max_grad_norm, center, self.average)
            optimizer.replay = self._replayed_update
        if not model.training:
            model.train()
        return self.graphs.forward_backward(inputs, loss_of, self.current_gradient_accumulation_steps)

    def _replayed_update(self) -> None:
        assert self.graphs is not None
        self.graphs.update()
        self.watch("gradient norm", self.graphs.norm)
        self._rows = []

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        return super()._get_grad_norm(model, grad_norm) if self.graphs is None else self.graphs.norm

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        return super()._clip_grad_norm(model) if self.graphs is None else self.graphs.norm

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as `Trainer` does; the model ends with the best weights, or with the averaged ones."""
        output = super().train(*args, **kwargs)
        self.graphs = None
        if self.average is not None:
            if not (self.args.load_best_model_at_end and self.state.best_model_checkpoint):
                self.average.swap()
            self.average = None
        return output

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, *args: Any, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Compute the model's loss, in training with label smoothing and teachers, for hard and soft labels."""
        smoothing, weights = self.args.label_smoothing_factor, self.class_weights
        if not model.training or not (smoothing or weights is not None or self.teachers):
            return super().compute_loss(model, inputs, return_outputs, *args, **kwargs)
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        if self.core.config.problem_type == MULTI_LABEL:
            soft = labels * (1 - smoothing) + smoothing / 2
            loss = nn.functional.binary_cross_entropy_with_logits(outputs.logits.float(), soft)
            return (loss, outputs) if return_outputs else loss
        options: Any = {"weight": weights, "label_smoothing": smoothing, "reduction": "none"}
        # The mean over images, not over their weights: the same whether labels are mixed and batches accumulated.
        loss = nn.functional.cross_entropy(outputs.logits.float(), labels, **options).mean()
        if self.teachers is not None:
            loss = torch.lerp(loss, self.teachers.loss(outputs.logits, inputs["pixel_values"]), self.teacher_weight)
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        data: Any = self.train_dataset if train_dataset is None else train_dataset
        if not self.balance_samples:
            return super()._get_train_sampler(train_dataset)
        return BalancedSampler(data, int(self.args.data_seed or 0))

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the names of the parameters that weight decay acts on."""
        return [name for name, parameter in model.named_parameters() if decays(name, parameter)]

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the averaged weights."""
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


def replays_steps(wanted: str, args: Any, parameters: int) -> bool:
    """Return whether training steps are replayed as CUDA graphs.

    Args:
        wanted: `true`, `false`, or `auto` for models so small that launching kernels takes longer than running them.
        args: Arguments of training.
        parameters: Number of them.

    Raises:
        ValueError: if they are wanted where they cannot be.
    """
    # A launcher's settings come by the environment.
    precision = "fp16" if args.fp16 else os.environ.get("ACCELERATE_MIXED_PRECISION")
    mode = args.torch_compile_mode or os.environ.get("ACCELERATE_DYNAMO_MODE")
    reasons = {
        f"the device is {args.device}": args.device.type != "cuda",
        f"{args.world_size} processes train together": args.world_size > 1,
        f"{args.n_gpu} GPUs share one process": args.n_gpu > 1,
        "the gradient scaler of fp16 decides on the host about each step": precision == "fp16",
        f"--torch_compile_mode {mode} makes graphs too": mode in ("reduce-overhead", "max-autotune"),
        f"--optim {args.optim} is not AdamW": args.optim not in ("adamw_torch", "adamw_torch_fused"),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if wanted == "true" and found:
        raise ValueError(f"`cuda_graphs` must be auto or false, got true while {found[0]}. Leave it out.")
    return wanted != "false" and not found and (wanted == "true" or parameters <= SMALL_MODEL)


def answers(logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """Return class and loss of each image (batch, 2), in float64, so that processes gather two numbers per image.

    With lists of labels the probabilities of all classes, and the loss: (batch, classes + 1).
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    if labels.ndim == 2:
        losses = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none").mean(dim=-1)
        return torch.cat((logits.double().sigmoid(), losses[:, None].double()), dim=-1)
    losses = nn.functional.cross_entropy(logits.float(), labels, reduction="none")
    return torch.stack((logits.argmax(dim=-1), losses), dim=-1).double()


def accuracies(prediction: EvalPrediction) -> dict[str, float]:
    """Return the fraction of right images, its mean over the classes, and the loss.

    The Trainer's own loss is a mean over batches: with several processes, what fills up the last one counts.
    """
    found: Any = prediction.predictions
    labels: Any = prediction.label_ids
    if labels.ndim == 2:
        probabilities = found[:, :-1]
        return {
            "accuracy": float(((probabilities >= DEFAULT_THRESHOLD) == labels).all(axis=1).mean()),
            "mean_average_precision": mean_average_precision(probabilities, labels),
            "loss": float(found[:, -1].mean()),
        }
    right = found[:, 0] == labels
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": balanced_accuracy(right, labels),
        "loss": float(found[:, 1].mean()),
    }


__all__ = ["OmniVisionTrainer", "accuracies", "answers", "replays_steps"]

"""What happens around each step: epochs for the data, a centred residual stream, averaged weights."""

from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..modeling_omni_vision import OmniVisionPreTrainedModel
from .averaging import WeightAverage


class DataEpochCallback(TrainerCallback):
    """
    Sets the epoch of the training data; accelerate does so only for some kinds of data loaders.

    Args:
        data: What has a `set_epoch`, by default the training dataset if it has one.
    """

    def __init__(self, data: Any = None) -> None:
        self.data = data

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Set the epoch, counted from 0."""
        data = train_dataloader.dataset if self.data is None else self.data
        set_epoch = getattr(data, "set_epoch", None)
        if set_epoch is not None:
            # A resumed epoch starts at a fraction; the tiny step up is for sums that fall just short of one.
            set_epoch(int((state.epoch or 0) + 1e-6))


class CenteringCallback(TrainerCallback):
    """Keeps everything that writes into the residual stream at zero mean, after each optimizer step."""

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Centre the model in place; wrapped models (DDP, compiled) share its parameters."""
        plain = unwrap(model)
        if isinstance(plain, OmniVisionPreTrainedModel):
            plain.center_residual_()


class AveragingCallback(TrainerCallback):
    """Adds the weights of each step to their average; must come after centring."""

    def __init__(self, average: WeightAverage) -> None:
        self.average = average

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Update the average."""
        self.average.update()


def unwrap(model: nn.Module | None) -> nn.Module | None:
    """Return a model without the wrappers of DDP and `torch.compile`."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return unwrap(model.module)
    return getattr(model, "_orig_mod", model)


def set_frozen_to_eval(model: nn.Module) -> None:
    """Put the parts of a model that are not trained into evaluation mode: dropout is for what can learn from it."""
    for part in model.children():
        if not any(parameter.requires_grad for parameter in part.parameters()):
            part.eval()


__all__ = ["AveragingCallback", "CenteringCallback", "DataEpochCallback", "set_frozen_to_eval", "unwrap"]

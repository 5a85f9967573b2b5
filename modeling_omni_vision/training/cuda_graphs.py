"""Training steps of small models as CUDA graphs: their kernels take less time than launching them one by one.

One graph holds forward and backward for a shape of batch, another all that changes weights: clipping, optimizer,
centring, averaging. The Trainer's loop around them stays. A graph reads and writes the same memory at each replay, so
batches, gradients and learning rates are copied into tensors that stay.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .averaging import WeightAverage
from .muon import Muon


WARM_UP = 3  # runs before a capture, in which libraries set themselves up
MAX_SHAPES = 4  # batches of further shapes run without a graph
SMALL_MODEL = 30_000_000  # parameters below which launches cost more than kernels do

Loss = Callable[[dict[str, torch.Tensor]], torch.Tensor]


class TrainingGraphs:
    """Replays training steps of one model on one CUDA device.

    Args:
        model: The model, without wrappers.
        optimizer: Steps its parameters.
        max_grad_norm: Largest norm of all gradients, 0 to leave them as they are.
        after_step: Changes weights after the optimizer, such as centring.
        average: Average of the weights, updated after that.

    Attributes:
        norm: Norm of the gradients of the last step, before clipping; written by `update`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Muon,
        max_grad_norm: float = 0.0,
        after_step: Callable[[], Any] | None = None,
        average: WeightAverage | None = None,
    ) -> None:
        self.optimizer, self.max_grad_norm, self.after_step, self.average = (
            optimizer,
            max_grad_norm,
            after_step,
            average,
        )
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.gradients = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._used: set[int] = set()
        self._steps: dict[Any, tuple[dict[str, torch.Tensor], Any, torch.Tensor]] = {}
        self._update: Any = None
        device = self.parameters[0].device
        self.norm = torch.zeros((), device=device)
        # A learning rate for each group, and the share of the new weights in their average.
        self._rates = torch.zeros(len(optimizer.param_groups) + 1, device=device)
        for options in (optimizer.defaults, *optimizer.param_groups):
            options["capturable"] = device.type == "cuda"
        for state in optimizer.state.values():  # of a resumed run
            state.update({name: value.to(device) for name, value in state.items() if isinstance(value, torch.Tensor)})

    def forward_backward(self, inputs: Mapping[str, torch.Tensor], loss_of: Loss, scale: Any = 1) -> torch.Tensor:
        """Add the gradients of a batch to those of the parameters, and return its loss.

        Args:
            inputs: The batch, on the device.
            loss_of: Computes the loss of a batch and its gradients.
            scale: What else `loss_of` depends on, such as the number of batches of an optimizer step.
        """
        key = scale, *((name, value.shape, value.dtype) for name, value in inputs.items())
        if key not in self._steps and len(self._steps) < MAX_SHAPES:
            kept = {name: value.clone() for name, value in inputs.items()}
            graph, loss = capture(lambda: self._add_gradients(kept, loss_of), self.gradients)
            self._steps[key] = kept, graph, loss
        self._attach()
        if key not in self._steps:
            return loss_of(dict(inputs))
        kept, graph, loss = self._steps[key]
        for name, value in inputs.items():
            kept[name].copy_(value)
        graph.replay()
        return loss.clone()

    def update(self) -> None:
        """Change the weights by the gradients added up, which are then zero."""
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        rates.append(self.average.next_share() if self.average is not None else 0.0)
        self._rates.copy_(torch.tensor(rates), non_blocking=True)
        if not self.optimizer.state:
            return self._change_weights()  # makes the state
        if self._update is None:
            averages = list(self.average.averaged.parameters()) if self.average is not None else []
            states = [value for state in self.optimizer.state.values() for value in state.values()]
            on_device = [value for value in states if value.device == self.norm.device]
            changed = [*self.parameters, *self.gradients, *averages, *on_device]
            self._update, _ = capture(self._change_weights, changed)
        self._update.replay()

    def _attach(self) -> None:
        """Let the parameters that get gradients have the kept ones: the Trainer takes them away after each step."""
        for index in self._used or range(len(self.parameters)):
            self.parameters[index].grad = self.gradients[index]

    def _add_gradients(self, inputs: dict[str, torch.Tensor], loss_of: Loss) -> torch.Tensor:
        for parameter in self.parameters:
            parameter.grad = None
        loss = loss_of(dict(inputs))
        found = {index: weight.grad for index, weight in enumerate(self.parameters) if weight.grad is not None}
        torch._foreach_add_([self.gradients[index] for index in found], list(found.values()))
        self._used |= set(found)
        return loss

    @torch.no_grad()
    def _change_weights(self) -> None:
        self._attach()
        found = [self.gradients[index] for index in sorted(self._used)]
        norm = torch.nn.utils.get_total_norm(found)
        self.norm.copy_(norm)
        if self.max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.max_grad_norm, norm)
        with _rates_on_device(self.optimizer, self._rates):
            self.optimizer.update()
        if self.after_step is not None:
            self.after_step()
        if self.average is not None:
            self.average.add(self._rates[-1])
        torch._foreach_zero_(self.gradients)


def capture(function: Callable[[], Any], changed: list[torch.Tensor]) -> tuple[Any, Any]:
    """Capture what a function does on the device, which leaves the tensors it changes and the random state alone.

    Returns:
        The graph, and what the function returned, which each replay writes again.
    """
    before, random_state = [tensor.detach().clone() for tensor in changed], torch.cuda.get_rng_state()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            function()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = function()
    with torch.no_grad():
        torch._foreach_copy_(changed, before)
    torch.cuda.set_rng_state(random_state)
    return graph, result


@contextmanager
def _rates_on_device(optimizer: Muon, rates: torch.Tensor) -> Iterator[None]:
    """Let the groups of an optimizer have tensors for learning rates, which a replay reads anew, within the block."""
    before = [group["lr"] for group in optimizer.param_groups]
    for index, group in enumerate(optimizer.param_groups):
        group["lr"] = rates[index]
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, before, strict=True):
            group["lr"] = rate


__all__ = ["SMALL_MODEL", "TrainingGraphs", "capture"]

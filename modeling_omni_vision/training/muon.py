"""Muon: steps of equal size in every direction for the matrices of the layers, AdamW for everything else.

The gradient of a matrix is averaged over steps and replaced by the nearest orthogonal matrix, by a few Newton-Schulz
iterations (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon). `torch.optim.Muon` iterates in bfloat16
on one matrix at a time; here all matrices of one shape go together, and in float32 where bfloat16 has no hardware.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch


# Coefficients of the quintic iteration: steep at zero, so that small singular values come up in few iterations.
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """
    Bring the singular values of matrices (count, rows, columns) near 1, to about 0.7 to 1.2; a zero matrix stays.

    Computes in bfloat16 on accelerators, in float32 on CPUs.
    """
    work = matrices.float() if matrices.device.type == "cpu" else matrices.bfloat16()
    wide = work.shape[2] > work.shape[1]
    work = work.mT if wide else work
    work = work / work.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    first, third, fifth = QUINTIC
    for _ in range(ITERATIONS):
        # On the smaller side: (count, columns, columns). Sums are fused into the products: a third of the launches.
        gram = work.mT @ work
        polynomial = torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth)
        work = torch.baddbmm(work, work, polynomial, beta=first)
    return (work.mT if wide else work).to(matrices.dtype)


class Muon(torch.optim.AdamW):
    """
    AdamW whose parameter groups with `muon=True` are stepped by Muon.

    Args:
        params: Parameter groups as dictionaries. Those with `muon=True` hold matrices only; their `lr` is the
            spectral norm of a step (0.02 is usual), `weight_decay` acts as in AdamW.
        momentum: Share of the past in the averaged gradient of Muon, with Nesterov's momentum.
        **kwargs: As for `torch.optim.AdamW`.

    Attributes:
        replay: Takes the step in place of `update` if it is set; see `TrainingGraphs`.

    Raises:
        `ValueError`: for a parameter in a Muon group that is no matrix.
    """

    replay: Callable[[], None] | None = None

    def __init__(self, params: Iterable[dict[str, Any]], momentum: float = 0.95, **kwargs: Any) -> None:
        self.momentum = momentum
        groups = [{"muon": False, **group} for group in params]
        wrong = [
            tuple(parameter.shape)
            for group in groups
            for parameter in group["params"]
            if group["muon"] and parameter.ndim != 2
        ]
        if wrong:
            raise ValueError(f"Muon steps matrices only, got parameters of shape {wrong}. Leave them to AdamW.")
        super().__init__(groups, **kwargs)

    def step(self, closure: Any = None) -> Any:
        """Take one step."""
        return self.update(closure) if self.replay is None else self.replay()

    @torch.no_grad()
    def update(self, closure: Any = None) -> Any:
        """Take one step, kernel by kernel; learning rates may be tensors on the device, as a CUDA graph needs them."""
        groups = self.param_groups
        # AdamW steps whatever groups it sees.
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        self._step_matrices([group for group in groups if group["muon"]])
        return loss

    def _step_matrices(self, groups: list[dict[str, Any]]) -> None:
        """Step all matrices of a shape together, over all layers."""
        by_shape: dict[torch.Size, list[tuple[torch.nn.Parameter, dict[str, Any], Any]]] = {}
        for group in groups:
            kept = 1 - group["lr"] * group["weight_decay"]
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append((parameter, group, kept))
        for (rows, columns), stepped in by_shape.items():
            directions = orthogonalised(self._averaged_gradients([parameter for parameter, _, _ in stepped]))
            parameters: list[torch.Tensor] = [parameter for parameter, _, _ in stepped]
            # A step changes a token equally much, whether a matrix widens or narrows it.
            sizes = _column([group["lr"] for _, group, _ in stepped], directions) * max(1.0, rows / columns) ** 0.5
            changed = torch.stack(parameters).mul_(_column([kept for _, _, kept in stepped], directions))
            changed.addcmul_(directions, sizes, value=-1)
            torch._foreach_copy_(parameters, list(changed.unbind()))

    def _averaged_gradients(self, parameters: list[torch.nn.Parameter]) -> torch.Tensor:
        """Average the gradients of matrices of one shape over steps, and return them (count, rows, columns)."""
        for parameter in parameters:
            if "averaged_gradient" not in self.state[parameter]:
                # AdamW expects a `step` in every state that it loads.
                self.state[parameter] |= {"step": torch.zeros(()), "averaged_gradient": torch.zeros_like(parameter)}
        averages = [self.state[parameter]["averaged_gradient"] for parameter in parameters]
        gradients: list[Any] = [parameter.grad for parameter in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - self.momentum)
        return torch.stack(torch._foreach_lerp(gradients, averages, self.momentum))


def _column(values: list[Any], like: torch.Tensor) -> torch.Tensor:
    """Return numbers, or tensors of one number each, as (count, 1, 1)."""
    if isinstance(values[0], torch.Tensor):
        return torch.stack(values).to(like.dtype)[:, None, None]
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)[:, None, None]


__all__ = ["Muon", "orthogonalised"]

"""Muon: steps of equal size in every direction for the matrices of the layers, AdamW for everything else.

The gradient of a matrix is averaged over steps and replaced by the nearest orthogonal matrix, by a few Newton-Schulz
iterations (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon). `torch.optim.Muon` iterates in bfloat16
on one matrix at a time; here all matrices of one shape go together, and in float32 where bfloat16 has no hardware.
"""

from collections.abc import Iterable
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
        # On the smaller side: (count, columns, columns).
        gram = work.mT @ work
        work = first * work + work @ (third * gram + fifth * gram @ gram)
    return (work.mT if wide else work).to(matrices.dtype)


class Muon(torch.optim.AdamW):
    """
    AdamW whose parameter groups with `muon=True` are stepped by Muon.

    Args:
        params: Parameter groups as dictionaries. Those with `muon=True` hold matrices only; their `lr` is the
            spectral norm of a step (0.02 is usual), `weight_decay` acts as in AdamW.
        momentum: Share of the past in the averaged gradient of Muon, with Nesterov's momentum.
        **kwargs: As for `torch.optim.AdamW`.

    Raises:
        `ValueError`: for a parameter in a Muon group that is no matrix.
    """

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

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step."""
        groups = self.param_groups
        # AdamW steps whatever groups it sees.
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                self._step_matrices(group)
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[torch.nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape.setdefault(parameter.shape, []).append(parameter)
        for (rows, columns), parameters in by_shape.items():
            ahead = torch.stack([self._averaged_gradient(parameter) for parameter in parameters])
            # A step changes a token equally much, whether a matrix widens or narrows it.
            size = group["lr"] * max(1.0, rows / columns) ** 0.5
            for parameter, direction in zip(parameters, orthogonalised(ahead), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-size)

    def _averaged_gradient(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "averaged_gradient" not in state:
            state["step"] = torch.zeros(())  # AdamW expects it in every state that it loads
            state["averaged_gradient"] = torch.zeros_like(parameter)
        average = state["averaged_gradient"].lerp_(gradient, 1 - self.momentum)
        return gradient.lerp(average, self.momentum)


__all__ = ["Muon", "orthogonalised"]

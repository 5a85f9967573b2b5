# Copyright 2026 The OmniVision authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""What the published models share: checks of arguments and of loaded weights, evaluation mode, a loss of logits."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel


PART_BYTES = 2**24  # of the largest tensor in a layer
HEAD = {f"{module}.{name}" for module in ("classifier", "pooled_norm") for name in ("weight", "bias")}


def refuse_unknown_arguments(
    names: Iterable[str], known: Collection[str], hints: Collection[str] = (), only_similar: bool = False
) -> None:
    """
    Raise a `ValueError` for an argument that nothing reads, such as a misspelt one.

    Args:
        names: Those that were passed.
        known: Those that are read.
        hints: More names to suggest, which are read by other methods.
        only_similar: Refuse only names that nearly are known, where others may be read by a part that takes any.
    """
    for name in names:
        if name in known:
            continue
        near = get_close_matches(name, {*known, *hints} - {name}, 1, 0.8 if only_similar else 0.6)
        if near or not only_similar:
            do = f"Did you mean {near[0]!r}?" if near else "Leave it out."
            raise ValueError(f"Expected arguments of the model, got {name!r}, which it does not take. {do}")


def run_in_parts(run: Callable[[Tensor], Tensor], tokens: Tensor, layers: nn.ModuleList, config: Any) -> Tensor:
    """
    Run layers on tokens (batch, tokens, hidden), at inference on a CPU few images at a time.

    glibc gives back at once what is larger than 32 MB, and each operator faults new pages in: on 128 images of 224 px
    ViTTiny is 1.37 times as fast as the best peer (docs/benchmarks.md); where freed memory is kept, nothing is gained.

    Args:
        run: Runs all layers.
        tokens: Their input.
        layers: Get the whole batch if one of their modules has hooks, which expect it.
        config: Of the model.
    """
    parts, records = 1, torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()
    if tokens.device.type == "cpu" and not records:
        images, length, _ = tokens.shape
        widest = max(config.intermediate_size, config.num_attention_heads * length)
        parts = min(images, 1 + images * length * widest * tokens.itemsize // PART_BYTES)
    if parts < 2 or any(m._forward_hooks or m._forward_pre_hooks for m in layers.modules()):
        return run(tokens)
    return torch.cat([run(part) for part in tokens.chunk(parts)])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode within the block, then back into the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def classification_loss(logits: Tensor, labels: Tensor, config: PreTrainedConfig) -> Tensor:
    """
    Return the mean loss of logits against labels for `config.problem_type`, a scalar.

    Args:
        logits: Scores of shape (batch, num_labels).
        labels: Class indices (batch,), or class probabilities (batch, num_labels) as from mixup, for
            `"single_label_classification"`; 0 / 1 flags (batch, num_labels) for
            `"multi_label_classification"`; values (batch,) or (batch, num_labels) for `"regression"`.
        config: If `problem_type` is None, the problem is regression for one label, multi-label for floating-point
            labels, single-label otherwise. Soft labels therefore need `problem_type`.

    Raises:
        `ValueError`: for labels of another shape, and what is no tensor.
    """
    problem: str | None = config.problem_type
    if not isinstance(labels, Tensor):
        raise ValueError(f"Labels must be a tensor of class numbers or probabilities, got {type(labels).__name__}.")
    if problem is None:
        guess = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
        problem = "regression" if config.num_labels == 1 else guess
    logits, labels = logits.float(), labels.to(logits.device)
    one_per_image = problem == "single_label_classification" and not labels.is_floating_point()
    if problem == "regression" and config.num_labels == 1:
        logits, labels = logits.flatten(), labels.flatten()
    expected = logits.shape[:1] if one_per_image else logits.shape
    if labels.shape != expected:
        raise ValueError(
            f"Labels for {problem} of {len(logits)} images must have shape {tuple(expected)}, got {labels.dtype} of "
            f"shape {tuple(labels.shape)}. Correct the labels, or set `problem_type` in the configuration."
        )
    labels = labels.long() if one_per_image else labels.float()
    if problem == "single_label_classification":
        return nn.functional.cross_entropy(logits, labels)
    if problem == "multi_label_classification":
        return nn.functional.binary_cross_entropy_with_logits(logits, labels)
    return nn.functional.mse_loss(logits, labels)


def refuse_missing_weights(model: PreTrainedModel, loading_info: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if the checkpoint that `model` was loaded from lacks weights, naming some of them."""
    missing = sorted(loading_info["missing_keys"])
    if missing:
        raise ValueError(
            f"A checkpoint of {type(model).__name__} must hold all of its weights, got none for {len(missing)} of "
            f"them, such as {missing[:3]!r}. Publish the merged model if these are an adapter's."
        )


class CompleteWeightsMixin:
    """Refuses incomplete checkpoints, for composite models: a vision tower with random weights is never intended."""

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """Load like [`~PreTrainedModel.from_pretrained`], but raise a `ValueError` if the checkpoint lacks weights.

        Not for who passes weights (`state_dict`), or asks which ones are missing (`output_loading_info`).
        """
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)  # type: ignore[misc]
        if not output_loading_info and kwargs.get("state_dict") is None:
            refuse_missing_weights(*loaded)
        return loaded if output_loading_info else loaded[0]


class WithoutHeadMixin:
    """Opens folders of classifiers without transformers' report of their heads, for the encoder alone."""

    def _adjust_missing_and_unexpected_keys(self, loading_info: Any) -> None:
        super()._adjust_missing_and_unexpected_keys(loading_info)  # type: ignore[misc]
        # Not among `_keys_to_ignore_on_load_unexpected`, which models with an encoder inherit: theirs is not left out.
        loading_info.unexpected_keys = loading_info.unexpected_keys - HEAD


__all__ = ["CompleteWeightsMixin", "WithoutHeadMixin", "classification_loss", "evaluating", "refuse_missing_weights"]
__all__ += ["refuse_unknown_arguments", "run_in_parts"]

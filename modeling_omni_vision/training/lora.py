"""LoRA put into a model in place and merged again, so that what is saved and published has no adapter.

PEFT does it by itself: `add_adapter` of transformers 5.24 asks for a PEFT that was not released with it.
"""

from typing import Any

from torch import nn


def add_lora(model: nn.Module, rank: int, targets: str) -> None:
    """
    Put LoRA into layers of a model, in place; PEFT freezes everything else.

    Args:
        model: The model.
        rank: Rank of the updates; they are scaled by 2.
        targets: Regular expression of the full names of the layers.
    """
    # Few trainings need the package.
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets), model)


def merge_lora(model: nn.Module) -> None:
    """Merge LoRA into the weights, in place, so that the published model has no adapter."""
    inner = [name for name, _ in model.named_modules() if name.endswith(".lora_A")]
    for name in (name.removesuffix(".lora_A") for name in inner):
        adapted: Any = model.get_submodule(name)
        adapted.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapted.get_base_layer())


__all__ = ["add_lora", "merge_lora"]

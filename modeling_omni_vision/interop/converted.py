"""What a reader of foreign checkpoints returns, and how it becomes a model."""

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights


@dataclass
class Converted:
    """A foreign checkpoint in our terms, before anything is written."""

    library: str  # that opens the original: transformers, timm or open_clip
    model_class: type[PreTrainedModel]  # of ours
    config: PreTrainedConfig
    state: dict[str, torch.Tensor]
    processor: Any = None  # of ours, None where the original has no settings
    left_out: list[str] = field(default_factory=list)  # weights of the original
    notes: list[str] = field(default_factory=list)  # sentences for whoever converts
    origin: dict[str, Any] = field(default_factory=dict)  # how the original is opened again

    def model(self, dtype: Any = "auto") -> Any:
        """Return the model in evaluation mode, by default in the precision of the original."""
        common = functools.reduce(torch.promote_types, (value.dtype for value in self.state.values()))
        # Not on the meta device, where buffers that no checkpoint holds would stay without numbers.
        with no_init_weights():
            model = self.model_class(self.config)
        wanted = common if dtype in ("auto", None) else getattr(torch, dtype) if isinstance(dtype, str) else dtype
        # A tower whose pooling was replaced does without the weights of the other one.
        own = model.state_dict().keys()
        state = {name: value.to(wanted).contiguous() for name, value in self.state.items() if name in own}
        model.load_state_dict(state, assign=True)
        model.config.dtype = wanted
        return model.eval()


__all__ = ["Converted"]

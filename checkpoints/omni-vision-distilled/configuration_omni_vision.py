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
"""Configuration of OmniVision, the ViTTiny encoder.

Defaults are the specification's: 224 px images, 16 px patches, width 128, four layers, two heads,
MLP 512, dropout 0.1: 916,992 parameters. Invalid values raise a `ValueError` here; the model does not
check them again. The saved `config.json` names every published class, so that each Auto class loads a
checkpoint whichever class saved it.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin


AUTO_MAP = {
    "AutoConfig": "configuration_omni_vision.OmniVisionConfig",
    "AutoBackbone": "modeling_omni_vision.OmniVisionBackbone",
    "AutoModel": "modeling_omni_vision.OmniVisionModel",
    "AutoModelForImageClassification": "modeling_omni_vision.OmniVisionForImageClassification",
    "AutoModelForMaskedImageModeling": "modeling_omni_vision.OmniVisionForMaskedImageModeling",
}
PROBABILITIES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate", "patch_drop_rate")


def value_errors(cls: type) -> type:
    """Make a strict dataclass raise `ValueError` for a field of the wrong type, as for any invalid value."""
    original: Callable[..., None] = cls.__init__  # type: ignore[misc]

    @functools.wraps(original)
    def checked_init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            original(self, *args, **kwargs)
        except StrictDataclassError as error:
            raise ValueError(f"{cls.__name__} got a value of the wrong type. {error}") from error

    cls.__init__ = checked_init  # type: ignore[misc]
    return cls


def check_field(
    config: PreTrainedConfig, name: str, valid: bool, expected: str, advice: str = "Correct it in the configuration."
) -> None:
    """Raise a `ValueError` that names the field, what was expected and its value, unless it is `valid`."""
    if not valid:
        raise ValueError(f"`{name}` must be {expected}, got {getattr(config, name)!r}. {advice}")


def check_choices(config: PreTrainedConfig, **choices: Iterable[str]) -> None:
    """Raise a `ValueError` for a field whose value is not among its choices."""
    for name, allowed in choices.items():
        check_field(config, name, getattr(config, name) in allowed, f"one of {', '.join(map(repr, allowed))}")


class ChecksOverrides:
    """First base of a configuration: checks what `from_pretrained` is given beside a file as it checks the file.

    transformers (5.23.0) sets such fields after the configuration was made and checked.
    """

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make a configuration of what a file holds and of other values for its fields, which are checked too."""
        own = set(cls.__dataclass_fields__) - set(PreTrainedConfig.__dataclass_fields__)  # type: ignore[attr-defined]
        # Either of these takes the place of both.
        chosen = {name: kwargs[name] for name in ("out_features", "out_indices") if name in kwargs}
        dropped = ("out_features", "out_indices") if chosen else ()
        changed = {name: value for name, value in config_dict.items() if name not in dropped} | chosen
        for name, value in kwargs.items():
            known = config_dict.get(name)
            if name in own:
                changed[name] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
        return super().from_dict(changed, **kwargs)  # type: ignore[misc]


@value_errors
@strict
class OmniVisionConfig(ChecksOverrides, BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of an [`OmniVisionModel`]. The defaults give the specification's ViTTiny.

    Args:
        image_size (`int` or pair of `int`, *optional*, defaults to 224):
            Native image size in pixels, one number for a square or (height, width). The model also takes
            any other multiple of the patch size and interpolates its position embeddings for it.
        patch_size (`int` or pair of `int`, *optional*, defaults to 16):
            Patch size in pixels, one number or (height, width). Must divide `image_size`.
        num_channels (`int`, *optional*, defaults to 3):
            Channels of an image: 3 for colour, 1 for grey, any other number for multispectral arrays.
        hidden_size (`int`, *optional*, defaults to 128):
            Width of every token. Must be a multiple of `num_attention_heads`.
        num_hidden_layers (`int`, *optional*, defaults to 4):
            Number of encoder layers.
        num_attention_heads (`int`, *optional*, defaults to 2):
            Attention heads in each layer.
        intermediate_size (`int`, *optional*, defaults to 512):
            Width of the hidden layer of each MLP.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the MLP, a key of `transformers.activations.ACT2FN`.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout after attention, inside the MLP and after it, as in `torch.nn.TransformerEncoderLayer`.
            Applied in training only, in [0, 1).
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout on attention weights, in [0, 1).
        drop_path_rate (`float`, *optional*, defaults to 0.0):
            Stochastic depth (https://huggingface.co/papers/1603.09382): probability that the last layer
            is skipped for an image; it rises linearly from 0 at the first layer. In [0, 1).
        patch_drop_rate (`float`, *optional*, defaults to 0.0):
            Fraction of the patches of each image that are dropped at random in training
            (https://huggingface.co/papers/2208.07220): 0.5 makes a step nearly twice as fast. In [0, 1).
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of all normalization layers.
        block_norm (`str`, *optional*, defaults to `"layer_norm"`):
            Norm inside the layers, `"layer_norm"` or `"rms_norm"`.
        final_norm (`str`, *optional*, defaults to `"rms_norm"`):
            Norm of all tokens after the last layer, `"rms_norm"`, `"layer_norm"` (stock ViTs), or `"none"`.
        embeddings_norm (`bool`, *optional*, defaults to `False`):
            LayerNorm of all tokens before the first layer, as in CLIP.
        pooled_norm (`bool`, *optional*, defaults to `False`):
            LayerNorm of the pooled vector before the classification head; timm calls it `fc_norm`.
        use_cls_token (`bool`, *optional*, defaults to `True`):
            Whether there is a CLS token. SigLIP has none; `cls` of the output is then None.
        position_antialias (`bool`, *optional*, defaults to `False`):
            Whether positions are smoothed while they are interpolated to a smaller grid: timm, open_clip and DINOv2
            with registers do that, ViT, DeiT, CLIP, SigLIP and plain DINOv2 do not.
        pooling (`str`, *optional*, defaults to `"cls"`):
            Input of the classification head: the CLS token (`"cls"`), the mean of the patch tokens
            (`"mean"`), both concatenated (`"cls_mean"`), or the patches pooled by a learned query, as in SigLIP
            (`"attention"`).
        num_register_tokens (`int`, *optional*, defaults to 0):
            Register tokens (https://huggingface.co/papers/2309.16588), between CLS and the patches; they have
            no position embedding.
        encoder_stride (`int` or pair of `int`, *optional*):
            Pixels that the decoder of an [`OmniVisionForMaskedImageModeling`] makes of each patch, one number or
            (height, width); by default the patch size, which masks need.
        out_features (`list[str]`, *optional*):
            Feature maps of an [`OmniVisionBackbone`]: `"stem"` for the embeddings, `"stage1"` to the last layer, which
            alone is the default, whatever the number of layers becomes.
        out_indices (`list[int]`, *optional*):
            The same as numbers, 0 for the embeddings.

    Raises:
        `ValueError`: if a value has the wrong type or contradicts another one.

    Example:
    ```python
    >>> from modeling_omni_vision import OmniVisionConfig, OmniVisionModel

    >>> config = OmniVisionConfig(image_size=28, patch_size=4, num_channels=1)
    >>> config.grid_size, config.num_patches
    ((7, 7), 49)
    >>> model = OmniVisionModel(config)
    ```
    """

    model_type = "omni_vision"
    base_config_key = "vision_config"
    # The Trainer would otherwise gather these for every evaluated image.
    keys_to_ignore_at_inference = ["hidden_states", "attentions", "cls", "grid"]

    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int | list[int] | tuple[int, int] = 16
    num_channels: int = 3
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 2
    intermediate_size: int = 512
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    drop_path_rate: float | int = 0.0
    patch_drop_rate: float | int = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    block_norm: str = "layer_norm"
    final_norm: str = "rms_norm"
    embeddings_norm: bool = False
    pooled_norm: bool = False
    use_cls_token: bool = True
    position_antialias: bool = False
    pooling: str = "cls"
    num_register_tokens: int = 0
    encoder_stride: int | list[int] | tuple[int, int] | None = None
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # Not at the top: it imports much of torch, which a command that only prints its flags does without.
        from transformers.activations import ACT2FN

        features, indices = kwargs.pop("out_features", None), kwargs.pop("out_indices", None)
        # Older files name all stages and the last one, also where nobody chose it: of the layers at that time.
        if stored := kwargs.pop("stage_names", None):
            features = None if features == stored[-1:] else features
            indices = None if indices in ([len(stored) - 1], [-1]) else indices
        self.set_output_features_output_indices(features, indices)
        super().__post_init__(**kwargs)
        self.auto_map = {**AUTO_MAP, **(getattr(self, "auto_map", None) or {})}
        self._check_numbers()
        check_choices(self, block_norm=("layer_norm", "rms_norm"), final_norm=("rms_norm", "layer_norm", "none"))
        check_choices(self, pooling=("cls", "mean", "cls_mean", "attention"))
        check_choices(self, hidden_act=tuple(ACT2FN))
        self._check_architecture()

    def __setattr__(self, name: str, value: Any) -> None:
        # The last stage stays the last one: `from_pretrained` and those who cut layers off change the number later.
        is_last = name == "num_hidden_layers" and self._gives_last_stage()
        super().__setattr__(name, value)
        if is_last:
            self.set_output_features_output_indices(None, None)

    def to_dict(self) -> dict[str, Any]:
        """Return what is saved, `out_features` and `out_indices` only where they are not the default."""
        saved: dict[str, Any] = super().to_dict()
        if self._gives_last_stage():
            del saved["out_features"], saved["out_indices"]
        return saved

    @property
    def stage_names(self) -> list[str]:
        """Names of the feature maps of a backbone: `"stem"`, and one for each layer."""
        return ["stem", *(f"stage{layer}" for layer in range(1, self.num_hidden_layers + 1))]

    @property
    def image_size_hw(self) -> tuple[int, int]:
        """Native image size in pixels: (height, width)."""
        return _pair(self.image_size)

    @property
    def patch_size_hw(self) -> tuple[int, int]:
        """Patch size in pixels: (height, width)."""
        return _pair(self.patch_size)

    @property
    def encoder_stride_hw(self) -> tuple[int, int]:
        """Pixels that a decoder makes of each patch: (height, width)."""
        return self.patch_size_hw if self.encoder_stride is None else _pair(self.encoder_stride)

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patch grid of an image of native size: (rows, columns)."""
        (height, width), (patch_height, patch_width) = self.image_size_hw, self.patch_size_hw
        return height // patch_height, width // patch_width

    @property
    def num_patches(self) -> int:
        """Number of patches of an image of native size."""
        rows, columns = self.grid_size
        return rows * columns

    @property
    def num_prefix_tokens(self) -> int:
        """Number of tokens before the patches: CLS and registers."""
        return int(self.use_cls_token) + self.num_register_tokens

    @property
    def pooled_size(self) -> int:
        """Width of the classification head's input."""
        return self.hidden_size * (2 if self.pooling == "cls_mean" else 1)

    def _gives_last_stage(self) -> bool:
        return self._out_features == self.stage_names[-1:]

    def _check_numbers(self) -> None:
        at_least_one = ("num_channels", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        for name, minimum in {**dict.fromkeys(at_least_one, 1), "num_register_tokens": 0}.items():
            check_field(self, name, getattr(self, name) >= minimum, f"an integer of at least {minimum}")
        for name in PROBABILITIES:
            check_field(self, name, 0 <= getattr(self, name) < 1, "a probability of at least 0 and below 1")
        for name in ("initializer_range", "layer_norm_eps"):
            check_field(self, name, 0 < getattr(self, name) < float("inf"), "a positive number")
        for name in ("image_size", "patch_size", *(["encoder_stride"] if self.encoder_stride is not None else [])):
            sides = _pair(getattr(self, name))
            valid = len(sides) == 2 and min(sides) >= 1
            check_field(self, name, valid, "a positive integer or a pair (height, width) of them")

    def _check_architecture(self) -> None:
        poolings = "'mean' or 'attention' in a model without CLS"
        check_field(self, "pooling", self.use_cls_token or self.pooling in ("mean", "attention"), poolings)
        check_field(
            self, "pooled_norm", not (self.pooled_norm and self.pooling == "cls_mean"), "False with 'cls_mean'"
        )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` must be a multiple of `num_attention_heads`, got {self.hidden_size} and "
                f"{self.num_attention_heads}. Change one of them."
            )
        sides = zip(("height", "width"), self.image_size_hw, self.patch_size_hw, strict=True)
        for side, image, patch in sides:
            if image % patch:
                raise ValueError(
                    f"`patch_size` must divide `image_size`, got a {side} of {image} pixels and patches of {patch}. "
                    f"Choose another patch size, or a {side} of {max(image // patch, 1) * patch} pixels."
                )


def _pair(value: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)  # type: ignore[return-value]


__all__ = ["OmniVisionConfig"]

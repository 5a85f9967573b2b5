"""The one place that opens a vision tower, whatever kind of OmniVision checkpoint holds it, or a foreign one."""

import logging as python_logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import logging

from ..configuration_omni_vision import OmniVisionConfig
from ..image_processing_omni_vision import OmniVisionImageProcessor
from ..modeling_omni_vision import OmniVisionForImageClassification, OmniVisionModel
from .from_transformers import class_labels
from .source import read_source
from .source_processor import source_image_processor


logger = python_logging.getLogger(__name__)


# What the names of the tower's weights begin with, by model type; `from_pretrained` knows the prefix of a classifier.
PREFIXES = {"omni_vision": "", "omni_vision_retrieval": "vision_model.", "omni_vision_language": "vision_tower."}
PREFIXES |= {"omni_vision_vae": "vision_model."}
# The number of heads too: weights fit any, but mean what they were trained for.
SHAPING_FIELDS = (
    "image_size",
    "patch_size",
    "num_channels",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "block_norm",
    "final_norm",
    "embeddings_norm",
    "use_cls_token",
    "num_register_tokens",
)


def load_vision_tower(path: str | Path, dtype: Any = "auto", **fields: Any) -> OmniVisionModel:
    """
    Load the vision tower of an encoder, a classifier, or any model of several parts, in evaluation mode.

    Args:
        path: Folder or Hub name of the checkpoint, ours or one that `read_source` reads. No code of it is run, and
            only the tower's weights are read.
        dtype: What the weights are loaded in; by default what they were saved in.
        fields: Of [`OmniVisionConfig`], in place of what the checkpoint says, such as `pooling`; none that the weights
            have their shape from.

    Raises:
        `ValueError`: if there is no such checkpoint, it is of another kind, lacks weights of the tower, or `fields`
            need weights of another shape.
    """
    saved, wanted = load_vision_config(path), load_vision_config(path, **fields)
    changed = [name for name in SHAPING_FIELDS if _shape(saved, name) != _shape(wanted, name)]
    changed += ["pooling"] if wanted.pooling == "attention" != saved.pooling else []
    if changed:
        made = ", ".join(f"{name} {getattr(saved, name)!r}" for name in changed)
        asked = ", ".join(repr(getattr(wanted, name)) for name in changed)
        raise ValueError(
            f"The weights of {str(path)!r} are made for {made}, got {asked}. Leave that out, or start from a new "
            "tower."
        )
    if not is_ours(path):
        converted = read_source(path, encoder_only=True)
        converted.config = wanted
        return converted.model(dtype)
    prefix = PREFIXES[read_model_type(path)]
    mapping = {f"^{prefix.replace('.', '[.]')}": ""} if prefix else None
    return load_complete(OmniVisionModel, path, key_mapping=mapping, dtype=dtype, **fields)


def is_ours(path: str | Path) -> bool:
    """Return whether a checkpoint is an OmniVision one."""
    try:
        return PreTrainedConfig.get_config_dict(path)[0].get("model_type") in PREFIXES
    except (OSError, ValueError):
        return False  # whoever reads it as a foreign one says what is wrong


def load_vision_config(path: str | Path, **fields: Any) -> OmniVisionConfig:
    """Return the configuration of the vision tower of a checkpoint, ours or foreign, with other values of `fields`.

    That of a classifier says so in `architectures`.
    """
    if is_ours(path):
        return OmniVisionConfig.from_pretrained(path, **fields)
    converted = read_source(path)
    config: Any = converted.config
    vision = getattr(config, "vision_config", config)
    if converted.model_class is OmniVisionForImageClassification:
        vision.architectures = [OmniVisionForImageClassification.__name__]
    return OmniVisionConfig.from_dict(vision.to_dict(), **fields)


def load_classifier_weights(path: str | Path, config: OmniVisionConfig) -> OmniVisionForImageClassification:
    """Load a classifier with its head, ours or foreign."""
    if is_ours(path):
        return load_complete(OmniVisionForImageClassification, path, config=config)
    converted = read_source(path)
    converted.config = config
    return converted.model("float32")


def load_image_processor(path: str | Path, **options: Any) -> OmniVisionImageProcessor:
    """Load the image processor of a checkpoint, ours or foreign, with other values of `options`."""
    if is_ours(path):
        return OmniVisionImageProcessor.from_pretrained(path, **options)
    converted = read_source(path, encoder_only=True)
    found = source_image_processor(converted)
    if found is None:
        config: Any = converted.config
        size = dict(zip(("height", "width"), config.image_size_hw, strict=True))
        logger.warning("%s says nothing of its images that ours can follow: they are resized to %s.", path, size)
        found = OmniVisionImageProcessor(size=size, num_channels=config.num_channels)
    return OmniVisionImageProcessor(**{**found.to_dict(), **options})


def load_complete(model_class: Any, path: str | Path, exact: bool = False, **options: Any) -> Any:
    """Load a model of transformers by `from_pretrained`, in evaluation mode, with all of its weights.

    Raises:
        `ValueError`: naming some weights that are missing or of another shape, with `exact` also those that the model
            has no place for; or a class of a classifier that has no name.
    """
    with without_load_report():
        model, report = model_class.from_pretrained(
            path, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    if options.get("key_mapping"):
        # `save_pretrained` of transformers 5.23 would write the old names again, with the pattern in them.
        vars(model).pop("_weight_conversions", None)
    kinds = ("missing_keys", "mismatched_keys", *(["unexpected_keys"] if exact else []))
    wrong = {kind: sorted(map(str, report[kind]))[:3] for kind in kinds if report[kind]}
    if wrong:
        raise ValueError(
            f"{str(path)!r} must hold {'exactly the' if exact else 'all'} weights of {type(model).__name__}, got "
            f"{wrong!r}. Save the checkpoint again, or name another."
        )
    if "ForImageClassification" in type(model).__name__:
        class_labels(model.config)  # a class without a name would be met late
    return model.eval()


@contextmanager
def without_load_report() -> Iterator[None]:
    """Silence transformers: its report of unused weights alarms for a head; tracers read attributes that warn."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def read_model_type(path: str | Path, known: Collection[str] = tuple(PREFIXES)) -> str:
    """Return the model type of a checkpoint, or raise `ValueError` for none and for one that is not `known`."""
    try:
        found = PreTrainedConfig.get_config_dict(path)[0]["model_type"]
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"Expected the folder or Hub name of an OmniVision checkpoint, got {str(path)!r} ({reason}). Name one "
            "whose config.json has a `model_type`."
        ) from error
    if found not in known:
        raise ValueError(
            f"The checkpoint must be an OmniVision one, got model type {found!r} in {str(path)!r}. Name one of type "
            f"{', '.join(known)}."
        )
    return found


def _shape(config: OmniVisionConfig, name: str) -> Any:
    return getattr(config, f"{name}_hw", getattr(config, name))


__all__ = ["is_ours", "load_classifier_weights", "load_complete", "load_image_processor", "load_vision_config"]
__all__ += ["load_vision_tower", "read_model_type", "without_load_report"]

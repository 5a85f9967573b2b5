"""Which kind of model a checkpoint holds, and whether a command takes it: known before any weights are read."""

from pathlib import Path


CLASSIFIER, RETRIEVAL, LANGUAGE, ENCODER = "classifier", "retrieval model", "vision-language model", "encoder"
VAE = "variational autoencoder"
COMPOSITES = {"omni_vision_retrieval": RETRIEVAL, "omni_vision_language": LANGUAGE, "omni_vision_vae": VAE}
# The commands for each kind.
TAKEN_BY = {
    CLASSIFIER: "predict, evaluate, visualize, demo",
    RETRIEVAL: "index, search, zero-shot, evaluate, visualize, demo",
    LANGUAGE: "ask, evaluate, visualize, demo",
    ENCODER: "visualize, demo, train --model, compose --vision",
    VAE: "train-vae --model, and by its encoder for embed, visualize, demo, export, train --model, compose --vision",
}


def one_of(*kinds: str) -> str:
    """Return kinds of models as a sentence says them: "an encoder or classifier"."""
    return f"{'an' if kinds[0][0] in 'aeiou' else 'a'} {' or '.join(kinds)}"


def check_kind(model: str, *wanted: str, revision: str | None = None) -> str:
    """Return the kind of a checkpoint, one of `TAKEN_BY`, or the model type of a foreign one that is none of these.

    Raises:
        ValueError: for a folder that is none of `wanted` but another of these kinds, or without a configuration.
    """
    from transformers import PreTrainedConfig

    found = PreTrainedConfig.get_config_dict(model, revision=revision)[0]
    model_type, architectures = found.get("model_type"), found.get("architectures") or []
    if not model_type:
        from ..interop.weights_file import instead_of

        raise ValueError(
            f"Expected {one_of(*wanted)} in {model!r}, got no config.json with a `model_type`. "
            f"{instead_of(Path(model))}"
        )
    kind = COMPOSITES.get(model_type)
    if kind is None and any("ForImageClassification" in name for name in architectures):
        kind = CLASSIFIER
    elif kind is None and model_type == "omni_vision":
        kind = ENCODER
    if kind is not None and kind not in wanted:
        raise ValueError(
            f"Expected {one_of(*wanted)} in {model!r}, got {one_of(kind)}, which is for omni-vision {TAKEN_BY[kind]}."
        )
    return kind or str(model_type)


__all__ = ["CLASSIFIER", "ENCODER", "LANGUAGE", "RETRIEVAL", "VAE", "check_kind", "one_of"]

"""Train a new vision tower on labels of each patch of drawn scenes: colour, shape and middle of the object there.

    python -m experiments.train_patches --output_dir runs/patches --muon_learning_rate 0.02 --learning_rate 2e-3

What is saved is a vision tower for `scripts/train_language.py --vision`; the accuracy of its patches, also on
combinations of colour and shape not in training, is in `metrics.json`. All TrainingArguments work as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from transformers import HfArgumentParser

from experiments.patches import train_patches
from modeling_omni_vision import OmniVisionConfig
from modeling_omni_vision.cli.program import run_training
from modeling_omni_vision.training.arguments import OmniVisionTrainingArguments, read_fields


@dataclass
class PatchArguments:
    """The vision tower to train."""

    config: str = field(
        default='{"image_size": 64, "patch_size": 8, "num_attention_heads": 4}',
        metadata={"help": "Fields of OmniVisionConfig, as JSON; without dropout by default."},
    )
    muon_learning_rate: float = field(
        default=0.0, metadata={"help": "Muon for the matrices of the layers (0.02 is usual); 0 disables."}
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = HfArgumentParser((PatchArguments, OmniVisionTrainingArguments))  # type: ignore[arg-type]
    recipe, args = parser.parse_args_into_dataclasses(args=None if argv is None else list(argv))
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = OmniVisionConfig(**{**plain, **read_fields("config", recipe.config)})
    record = run_training(partial(train_patches, config), recipe.muon_learning_rate, args)
    for split, scores in record.get("patches", {}).items():
        print(f"{split:11} " + "  ".join(f"{name} {value:.3f}" for name, value in scores.items()))


if __name__ == "__main__":
    main()

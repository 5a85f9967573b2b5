"""Train a vision-language model on questions about images, and measure how much of it needs the images.

    python scripts/train_language.py --dataset scenes --vision_feature_select_strategy grid --output_dir runs/vqa \
        --config '{"image_size": 64, "patch_size": 8}' --muon_learning_rate 0.02 --text_muon_learning_rate 0.02

`--dataset` takes scenes (drawn, with questions), easy-vqa, or JSON lines of conversations with images. Stages, each
from the folder of the one before: `--vision mine --text any/language-model --stage projector`, then `--model` with
`--stage lora` or `all`. Controls: `--image_input nothing` (a text-only baseline) or `shuffled`. All TrainingArguments
work as well.
On several CPU processes: torchrun --nproc_per_node 2 scripts/train_language.py (the same arguments).
"""

import json
from collections.abc import Sequence

import torch
from transformers import HfArgumentParser

from ..training.interruption import exit_when_interrupted
from ..training.language import LanguageRun
from ..training.language_arguments import LanguageArguments, LanguageTrainingArguments


def main(
    argv: Sequence[str] | None = None,
    arguments: type[LanguageArguments] = LanguageArguments,
    run: type[LanguageRun] = LanguageRun,
) -> None:
    """Train; experiments give other `arguments` and another `run`."""
    parser = HfArgumentParser((arguments, LanguageTrainingArguments))  # type: ignore[arg-type]
    recipe, args = parser.parse_args_into_dataclasses(args=None if argv is None else list(argv))
    with exit_when_interrupted():
        folder = run(recipe, args).run()
    if args.process_index == 0:
        record = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        print(f"{'split':11} {'image_input':9} {'questions':12} {'exact':>6} {'95 % interval':>15} {'of':>6}")
        for split, controls in record.get("answers", {}).items():
            for image_input, found in controls.items():
                for kind, value in {"all": found, **found["kinds"]}.items():
                    low, high = value["interval"]
                    scores = f"{value['accuracy']:6.3f} {low:6.3f} to {high:.3f} {value['questions']:6d}"
                    print(f"{split:11} {image_input:9} {kind:12} {scores}")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

"""Train a language model to answer questions about images, and measure whether it looks at them.

    python scripts/train_language.py --dataset scenes --vision_feature_select_strategy grid --output_dir runs/seeing \
        --config '{"image_size": 64, "patch_size": 8}' --muon_learning_rate 0.02 --text_muon_learning_rate 0.02

`--dataset` takes scenes (drawn, with questions), easy-vqa, or JSON lines of conversations with images. Stages, each
from the folder of the one before: `--vision mine --text any/language-model --stage projector`, then `--model` with
`--stage lora` or `all`. Controls: `--image_input nothing`, `shuffled`, `symbols` or `symbol_map`. All
TrainingArguments work as well.
On several CPU processes: torchrun --nproc_per_node 2 scripts/train_language.py (the same arguments).
"""

import json
from collections.abc import Sequence

import torch
from transformers import HfArgumentParser

from ..training.callbacks import exit_when_interrupted
from ..training.language import train_language
from ..training.language_arguments import LanguageArguments, LanguageTrainingArguments


def main(argv: Sequence[str] | None = None) -> None:
    parser = HfArgumentParser((LanguageArguments, LanguageTrainingArguments))  # type: ignore[arg-type]
    recipe, args = parser.parse_args_into_dataclasses(args=None if argv is None else list(argv))
    with exit_when_interrupted():
        folder = train_language(recipe, args)
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

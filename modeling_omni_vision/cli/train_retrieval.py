"""Train images and texts to find each other: search by late interaction or by one vector, and zero-shot classes.

    python scripts/train_retrieval.py --dataset scenes --text new --train all --output_dir runs/search \
        --config '{"image_size": 64, "patch_size": 8}' --muon_learning_rate 0.02

`--dataset` takes scenes (drawn, with captions), a folder of images with a metadata.jsonl, Parquet
files, a saved dataset, or a dataset of the Hub with images and texts. All training arguments of
sentence-transformers work as well; `--help` lists everything. Needs the extra [retrieval].
On several CPU processes: torchrun --nproc_per_node 2 scripts/train_retrieval.py (the same arguments).
"""

import json
from collections.abc import Sequence

import torch
from transformers import HfArgumentParser

from ..training.interruption import exit_when_interrupted
from ..training.retrieval import train_retrieval
from ..training.retrieval_arguments import RetrievalArguments, RetrievalTrainingArguments


def main(argv: Sequence[str] | None = None) -> None:
    parser = HfArgumentParser((RetrievalArguments, RetrievalTrainingArguments))  # type: ignore[arg-type]
    recipe, args = parser.parse_args_into_dataclasses(args=None if argv is None else list(argv))
    with exit_when_interrupted():
        folder = train_retrieval(recipe, args)
    if args.process_index == 0:
        record = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        print(f"{'vectors':8} {'split':18} {'direction':16} {'recall@1':>9} {'recall@5':>9} {'nDCG@10':>8} {'of':>6}")
        for vectors, splits in record.get("retrieval", {}).items():
            for split, directions in splits.items():
                for direction, found in directions.items():
                    scores = f"{found['recall@1']:9.3f} {found['recall@5']:9.3f} {found['ndcg@10']:8.3f}"
                    print(f"{vectors:8} {split:18} {direction:16} {scores} {found['candidates']:6d}")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

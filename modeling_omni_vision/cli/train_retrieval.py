r"""Train images and texts to find each other: search by late interaction or by one vector, and zero-shot classes.

    omni-vision train-retrieval --dataset scenes --text new --train all --output_dir runs/search \
        --config '{"image_size": 64, "patch_size": 8}' --muon_learning_rate 0.02

`--dataset` takes scenes (drawn, with captions), a folder of images with a metadata.jsonl, Parquet files, a saved
dataset, or a dataset of the Hub with images and texts. All training arguments of sentence-transformers work as well.
Needs the extra: pip install "omni-vision[retrieval]".
On several CPU processes: torchrun --nproc_per_node 2 scripts/train_retrieval.py (the same flags).
"""

from collections.abc import Sequence

from .arguments import parse_training
from .program import program, run_training


@program
def main(argv: Sequence[str]) -> None:
    from ..training.retrieval_arguments import RetrievalArguments, RetrievalTrainingArguments

    recipe, args = parse_training((RetrievalArguments, RetrievalTrainingArguments), argv, __name__)
    from ..training.retrieval import train_retrieval

    record = run_training(train_retrieval, recipe, args)
    if record:
        print(f"{'vectors':13} {'split':18} {'direction':16} {'recall@1':>9} {'recall@5':>9} {'nDCG@10':>8} {'of':>6}")
    for vectors, splits in record.get("retrieval", {}).items():
        for split, directions in splits.items():
            for direction, found in directions.items():
                scores = f"{found['recall@1']:9.3f} {found['recall@5']:9.3f} {found['ndcg@10']:8.3f}"
                print(f"{vectors:13} {split:18} {direction:16} {scores} {found['candidates']:6d}")

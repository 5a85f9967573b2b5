#!/usr/bin/env bash
# The late-interaction score of a query and a document in transformers changes with the other documents that are scored in the same call.
#
# Guess: `ColPaliProcessor.score_retrieval(queries, documents)` is MaxSim, a sum over the query's vectors of the best product with a vector of
# the document, so that a score depends on its own pair, and a document is ranked alike in any list.
# Seen (transformers 5.23.0; ColPaliProcessor, ColQwen2Processor, ColModernVBertProcessor): shorter documents are filled with rows of zeros up to
# the longest of the batch, and no mask leaves these out, so that no vector of a query counts less than 0 with them. A document of one
# vector opposite to the query has a score of -1 alone and 0 beside a longer one, and is ranked before a better document then. Of random unit
# vectors of width 128, documents of 1 to 8 vectors, a third of all scores is another than MaxSim. How documents are divided decides too: zeros
# are added up to the longest of each `batch_size` documents.
# Matters for: image-text search with several vectors for each document, above all short ones: captions, words, pooled or pruned images.
# Score lists of one length, or with a mask that makes filled rows -inf before the maximum.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 torch==2.15.0 torchvision==0.29.2 pillow==13.0.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python - <<'PY' 2>&1 | grep -v -i warning
import torch
from transformers import (
    ColModernVBertProcessor,
    ColPaliProcessor,
    ColQwen2Processor,
)

# The method reads nothing of its processor.
ways = {one.__name__: one.score_retrieval.__get__(object()) for one in (ColPaliProcessor, ColQwen2Processor, ColModernVBertProcessor)}
query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
opposite, better = torch.tensor([[-1.0, 0.0]]), torch.tensor([[0.6, -0.8], [0.6, -0.8]])
torch.manual_seed(0)
unit = torch.nn.functional.normalize
queries = [unit(torch.randn(5, 128), dim=-1) for _ in range(20)]
documents = [unit(torch.randn(1 + number % 8, 128), dim=-1) for number in range(200)]
exact = torch.stack([torch.stack([(one @ other.T).amax(1).sum() for other in documents]) for one in queries])
for name, score in ways.items():
    alone = [float(score([query], [one])) for one in (opposite, better)]
    together = score([query], [opposite, better])[0].tolist()
    found = score(queries, documents)
    changed = float(((found - exact).abs() > 1e-5).float().mean())
    by_tens = score(queries, sorted(documents, key=len), batch_size=10)
    order = sorted(range(len(documents)), key=lambda number: len(documents[number]))
    other = float(((by_tens - found[:, order]).abs() > 1e-5).float().mean())
    print(
        f"{name}: alone {alone[0]:.1f} and {alone[1]:.1f}, together {together[0]:.1f} and {together[1]:.1f}; of 4,000 random pairs "
        f"{changed:.0%} differ from MaxSim, {other:.0%} change when documents are sorted by length and scored ten at a time"
    )
    assert alone[0] < alone[1] and together[0] > together[1], (alone, together)
    assert changed > 0.25 and other > 0.1, (changed, other)
    one_by_one = torch.cat([score(queries, [one]) for one in documents], 1)
    assert torch.allclose(one_by_one, exact, atol=1e-5)
print("as described")
PY

#!/usr/bin/env bash
# The same weights give other last bits when the header of their safetensors file has another length.
#
# Guess: `load_file` returns the tensors that were saved, so what is computed from them is the same to the bit.
# Seen (safetensors 0.8.0, torch 2.13.0, x86-64 CPU with AVX2, one thread): `load_file` maps the file, the header is padded to
# 8 bytes only, so a longer string in the metadata moves every tensor to another alignment in memory. A matrix times one
# row (batch 1) then takes another path and differs by about 4e-6 where the address modulo 16 differs; larger batches,
# layer norms and sums were equal. Cloned tensors are aligned by torch and agree again.
# Matters for: bit-exact comparisons of published weights, renamed tensors (longer names), added metadata, proofs of outputs.
# Where a processor takes one path for every alignment this script fails: then it does not show there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 safetensors==0.8.0 numpy==2.4.6 packaging==26.3
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'PY'
import torch
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
torch.manual_seed(0)
weight, rows = torch.randn(512, 128), torch.randn(5, 128)
found = {}
for length in range(0, 64, 8):
    save_file({"weight": weight}, "weights.safetensors", metadata={"note": "x" * length})
    loaded = load_file("weights.safetensors")["weight"]
    assert torch.equal(loaded, weight)
    one, many, cloned = rows[:1] @ loaded.T, rows @ loaded.T, rows[:1] @ loaded.clone().T
    found[length] = (loaded.data_ptr() % 16, one, many, cloned)
for length, (address, one, _, _) in found.items():
    print(f"metadata of {length:2} more bytes: address % 16 = {address}, batch 1 differs by "
          f"{(one - found[0][1]).abs().max():.1e} from the first file")
first = found[0]
assert any(not torch.equal(one, first[1]) for _, one, _, _ in found.values()), "batch 1 no longer depends on the header"
assert all(torch.equal(many, first[2]) for _, _, many, _ in found.values()), "larger batches differ too"
assert all(torch.equal(cloned, first[3]) for _, _, _, cloned in found.values()), "clones differ too"
print("as described")
PY

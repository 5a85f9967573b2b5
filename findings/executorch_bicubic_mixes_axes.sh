#!/usr/bin/env bash
# ExecuTorch: bicubic interpolation of a permuted tensor gives values in other places, silently, wherever the product is flattened next.
#
# Guess: a graph that ExecuTorch exports, loads and runs without an error computes what torch computes; strides of a permuted tensor are kept or made plain.
# Seen (executorch 1.5.1, torch 2.15.0, x86-64): a table of positions, (1, rows * columns, width), is brought into (1, width, rows, columns) by `unflatten` and
# `permute`, as vision transformers do, and enlarged by `interpolate(mode="bicubic")`. Then `flatten(2).transpose(1, 2)` gives values of the right size in wrong
# places: with the portable kernels always, with XNNPACK where sizes are free, while XNNPACK at a fixed size is right. `permute(0, 2, 3, 1).reshape(...)`
# in its place is right with XNNPACK and raises with the portable kernels. `.contiguous()` before the interpolation makes all of them right, and
# bilinear interpolation is right without.
# Matters for: vision transformers whose positions are interpolated, exported for any size. Compare the exported program with torch, and make the table contiguous.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 executorch==1.5.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'PY' 2>warnings.txt || { tail -n 30 warnings.txt; exit 1; }
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from torch.export import Dim
from torch.nn.functional import interpolate

torch.manual_seed(0)
WIDTH = 8


class Positions(torch.nn.Module):
    def __init__(self, mode, contiguous, permute):
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(1, 16, WIDTH))
        self.mode, self.contiguous, self.permute = mode, contiguous, permute

    def forward(self, images):
        size = (images.shape[2] // 8, images.shape[3] // 8)
        grid = self.table.unflatten(1, (4, 4)).permute(0, 3, 1, 2)
        grid = interpolate(grid.contiguous() if self.contiguous else grid, size=size, mode=self.mode, align_corners=False)
        tokens = grid.permute(0, 2, 3, 1).reshape(1, -1, WIDTH) if self.permute else grid.flatten(2).transpose(1, 2)
        return tokens + 0 * images.mean()


found = {}
for mode in ("bicubic", "bilinear"):
    for contiguous in (False, True):
        for permute in (False, True):
            model = Positions(mode, contiguous, permute).eval()
            for free in (False, True):
                sides = {2: 8 * Dim("rows", min=2, max=16), 3: 8 * Dim("columns", min=2, max=16)}
                shapes = {"images": sides} if free else None
                program = torch.export.export(model, (torch.randn(1, 3, 48, 56),), dynamic_shapes=shapes, strict=False)
                for kernels, parts in (("XNNPACK", [XnnpackPartitioner()]), ("portable", [])):
                    lowered = to_edge_transform_and_lower(program, partitioner=parts).to_executorch()
                    method = Runtime.get().load_program(lowered.buffer).load_method("forward")
                    differences = []
                    for size in ((48, 56), (16, 24)) if free else ((48, 56),):
                        images = torch.randn(1, 3, *size)
                        try:
                            differences.append((method.execute([images])[0] - model(images)).abs().max().item())
                        except RuntimeError:
                            differences.append(None)
                    answer = "raises" if None in differences else "right" if max(differences) < 1e-4 else "wrong"
                    case = (mode, "contiguous" if contiguous else "permuted", "permute" if permute else "flatten")
                    found[(*case, "free" if free else "fixed", kernels)] = answer
for case, answer in found.items():
    print(*case, answer)
    mode, kept, after, size, kernels = case
    wanted = "right"
    if (mode, kept) == ("bicubic", "permuted") and kernels == "portable":
        wanted = "wrong" if after == "flatten" else "raises"
    if case == ("bicubic", "permuted", "flatten", "free", "XNNPACK"):
        wanted = "wrong"
    assert answer == wanted, (case, answer)
print("as described")
PY

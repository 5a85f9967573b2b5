#!/usr/bin/env bash
# transformers' own exporters with `dynamic=True`: a vision encoder that is traced with images of its own size works at no other size,
# though the graph's inputs are dynamic and the model interpolates its positions.
#
# Guess: `OnnxExporter().export(model, inputs, OnnxConfig(dynamic=True))` gives a graph for every size that the model takes; the sample is only an example.
# Seen (transformers 5.24.0, torch 2.15.0, onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.32.0, CPU): ViT and SigLIP with `interpolate_pos_encoding=True` and DINOv2,
# traced with a sample of the configured size, have free dimensions and fail at run time at any other size: the comparison with the native size is fixed
# in the graph. Traced with a sample of another size, they are right at all sizes, the native one too (1e-5). DINOv2 with registers, whose positions are
# antialiased, works at the size of its sample alone, whichever that is. The OpenVINO exporter does the same.
# Matters for: exporting encoders for any size; a test at the size of the sample shows nothing. Trace with a size that is not the native one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 transformers==5.24.0 numpy==2.4.6 \
    onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python - <<'PY' 2>warnings.txt || { tail -n 30 warnings.txt; exit 1; }
import torch
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)
from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

NATIVE, OTHERS = (32, 32), ((48, 56), (16, 16), (48, 32))
SIZES = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
asked = {"interpolate_pos_encoding": True}
models = {
    "ViT": (ViTModel(ViTConfig(**SIZES, intermediate_size=64)), asked),
    "SigLIP": (SiglipVisionModel(SiglipVisionConfig(**SIZES, intermediate_size=64)), asked),
    "DINOv2": (Dinov2Model(Dinov2Config(**SIZES)), {}),
    "DINOv2 with registers": (Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES)), {}),
}
torch.manual_seed(0)
for name, (model, options) in models.items():
    model.eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.2)
    right = {}
    for sample in (NATIVE, OTHERS[0]):
        inputs = {"pixel_values": torch.randn(2, 3, *sample), **options}
        exported = OnnxExporter().export(model, inputs, config=OnnxConfig(dynamic=True))
        free = [str(side) for side in exported.program.graph.inputs[0].shape][2:]
        assert not any(side.isdigit() for side in free), free
        right[sample] = []
        for size in (NATIVE, *OTHERS):
            pixels = torch.randn(1, 3, *size)
            with torch.no_grad():
                wanted = model(pixel_values=pixels, **options).last_hidden_state
            try:
                found = torch.as_tensor(exported(pixel_values=pixels)["last_hidden_state"])
            except RuntimeError:
                continue
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
            right[sample].append(size)
    for sample, sizes in right.items():
        print(f"{name}: traced at {sample}, right at {sizes}, fails at the others")
    assert right[NATIVE] == [NATIVE], right
    assert right[OTHERS[0]] == ([OTHERS[0]] if "registers" in name else [NATIVE, *OTHERS]), right
print("as described")
PY

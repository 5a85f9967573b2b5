#!/usr/bin/env bash
# transformers' `OnnxExporter` with `ort_fusions="cpu"` makes a graph of a SigLIP vision tower that ONNX Runtime opens and never runs.
#
# Guess: a graph that was fused for ONNX Runtime's CPU provider and that its session accepts computes what the unfused one does.
# Seen (transformers 5.24.0, torch 2.15.0, onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.32.0): export and session give no error; each call raises, for any batch and
# size, static or dynamic: a fused product transposes an operand of two dimensions, which ONNX Runtime takes for three or more only. It is in the pooling head:
# with `vision_use_head=False` the fused graph is right, and so are ViT and CLIP (1e-5). Without `ort_fusions` SigLIP is right too.
# Matters for: SigLIP image vectors, which come from that head. Export the tower without `ort_fusions`, and call a graph once before it is published.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 transformers==5.24.0 numpy==2.4.6 \
    onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python - <<'PY' 2>warnings.txt || { tail -n 30 warnings.txt; exit 1; }
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel, ViTConfig, ViTModel
from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

sizes = {"image_size": 224, "patch_size": 16, "hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 384}
torch.manual_seed(0)
models = {
    "SigLIP": SiglipVisionModel(SiglipVisionConfig(**sizes)),
    "SigLIP without its head": SiglipVisionModel(SiglipVisionConfig(**sizes, vision_use_head=False)),
    "ViT": ViTModel(ViTConfig(**sizes)),
    "CLIP": CLIPVisionModel(CLIPVisionConfig(**sizes)),
}
for name, model in models.items():
    model.eval()
    for fusions in (None, "cpu"):
        for dynamic in (False, True):
            pixels = torch.randn(2, 3, 224, 224)
            exported = OnnxExporter().export(model, {"pixel_values": pixels}, config=OnnxConfig(dynamic=dynamic, ort_fusions=fusions))
            exported.to()  # opens the session
            with torch.no_grad():
                wanted = model(pixel_values=pixels).last_hidden_state
            try:
                found = torch.as_tensor(exported(pixel_values=pixels)["last_hidden_state"])
            except RuntimeError as error:
                print(f"{name}, fusions {fusions}, dynamic {dynamic}: {str(error).strip()[-110:]}")
                assert (name, fusions) == ("SigLIP", "cpu") and "FusedMatMul" in str(error), error
                continue
            print(f"{name}, fusions {fusions}, dynamic {dynamic}: differs by {(found - wanted).abs().max():.0e}")
            assert (name, fusions) != ("SigLIP", "cpu"), "it runs now"
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
print("as described")
PY

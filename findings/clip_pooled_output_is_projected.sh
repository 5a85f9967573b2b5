#!/usr/bin/env bash
# transformers' CLIPModel puts the projected vector in the place of its towers' pooled output, also where a caller holds the tower's output.
#
# Guess: `output.vision_model_output.pooler_output` is what `CLIPVisionModel` returns there (hidden size), and a forward hook on
# `model.vision_model` sees it: the vector before the projection, which linear probes take.
# Seen (transformers 5.23.0, torch 2.13.0): `forward` and `get_image_features` write the projected vector (projection_dim) into the object that the tower
# returned. Where both sizes are the same nothing shows it. The same holds for `text_model_output` and `get_text_features`.
# `model.vision_model(pixel_values).pooler_output`, called by itself, is the pooled vector.
# Matters for: probing, distillation and feature extraction from CLIP by hooks or from its output.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cd "$folder"
HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 venv/bin/python - <<'PY'
import torch
from transformers import CLIPConfig, CLIPModel

torch.manual_seed(0)
part = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
config = CLIPConfig(
    vision_config={**part, "image_size": 32, "patch_size": 8},
    text_config={**part, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2},
    projection_dim=16,
)
model = CLIPModel(config).eval()
pixels, words = torch.randn(2, 3, 32, 32), torch.tensor([[1, 5, 2], [1, 6, 2]])
with torch.no_grad():
    pooled = {"vision": model.vision_model(pixels).pooler_output, "text": model.text_model(words).pooler_output}
    seen = {"vision": [], "text": []}
    model.vision_model.register_forward_hook(lambda *event: seen["vision"].append(event[2]))
    model.text_model.register_forward_hook(lambda *event: seen["text"].append(event[2]))
    output = model(input_ids=words, pixel_values=pixels)
    model.get_image_features(pixel_values=pixels)
    model.get_text_features(input_ids=words)
    projected = {"vision": model.visual_projection(pooled["vision"]), "text": model.text_projection(pooled["text"])}
for name, both in seen.items():
    returned = getattr(output, f"{name}_model_output").pooler_output
    print(f"{name}: pooled by itself {tuple(pooled[name].shape)}, in the output {tuple(returned.shape)}, in hooks {[tuple(one.pooler_output.shape) for one in both]}")
    for found in (returned, *(one.pooler_output for one in both)):
        torch.testing.assert_close(found, projected[name])
print("as described")
PY

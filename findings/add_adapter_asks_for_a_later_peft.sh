#!/usr/bin/env bash
# `add_adapter` of transformers 5.24 refuses every PEFT that exists, while PEFT itself puts the same adapter into the same model.
#
# Guess: the newest transformers works with the newest PEFT, or its requirement can be met by an upgrade.
# Seen (transformers 5.24.0 and peft 0.21.2, the newest of each on 2026-11-29, torch 2.15.0): `ViTModel.add_adapter(LoraConfig(...))` raises a ValueError
# that asks for 0.22.0 or newer. `peft.inject_adapter_in_model` with the same configuration works, adds the same parameters, and leaves outputs as they are.
# Matters for: LoRA on vision encoders by transformers' own methods (`add_adapter`, `load_adapter`, `set_adapter`), which its guides show.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 transformers==5.24.0 peft==0.21.2 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python - <<'PY' 2>warnings.txt || { cat warnings.txt; exit 1; }
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import ViTConfig, ViTModel

torch.manual_seed(0)
sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
model = ViTModel(ViTConfig(**sizes, intermediate_size=64)).eval()
pixels = torch.randn(2, 3, 32, 32)
before = model(pixels).last_hidden_state
lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
try:
    model.add_adapter(lora)
except ValueError as error:
    print(f"add_adapter: {type(error).__name__}: {error}")
    assert "0.22.0" in str(error)
else:
    raise AssertionError("add_adapter works now")
inject_adapter_in_model(lora, model)
added = sorted(name for name, weight in model.named_parameters() if weight.requires_grad)
print(f"inject_adapter_in_model: {len(added)} parameters to train, such as {added[0]}")
assert len(added) == 8 and all("lora_" in name for name in added)
torch.testing.assert_close(model(pixels).last_hidden_state, before)
print("as described")
PY

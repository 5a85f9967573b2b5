#!/usr/bin/env bash
# transformers' Trainer, resumed from a checkpoint of a ViT that it has just written, goes on with the layers as they were initialised.
#
# Guess: `trainer.train(resume_from_checkpoint=...)` puts all weights of the checkpoint into the model, or stops.
# Seen (transformers 5.23.0, torch 2.13.0, accelerate 1.15.0): a checkpoint has the names of older releases
# (`vit.encoder.layer.0.attention.attention.query.weight`), memory has others (`vit.layers.0.attention.q_proj.weight`), and the Trainer reads it
# without the renaming of `from_pretrained`. Of ViT, DeiT, BEiT and ViTMSN all weights of the layers are left out, of DINOv2 those of the attention:
# they are the initial ones again, beside trained embeddings and head and the optimizer state of trained layers. A warning names the keys, and
# training goes on. `from_pretrained` of the same folder gives the trained layers.
# Matters for: interrupted fine-tuning of these encoders. Make the model by `from_pretrained(checkpoint)` and resume from the same checkpoint, so that
# what the Trainer leaves alone is right already.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python - <<'PY' 2>warnings.txt || { cat warnings.txt; exit 1; }
import torch
import transformers
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 8, "patch_size": 4}
ROWS = [{"pixel_values": torch.full((3, 8, 8), number / 16), "labels": number % 2} for number in range(16)]
found = {}


class Look(TrainerCallback):
    def on_train_begin(self, args, state, control, model=None, **kwargs):
        found["begin"] = {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def run(kind, resume):
    set_seed(0)
    options = {"per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 4, "max_steps": 8, "use_cpu": True}
    options |= {"report_to": "none", "disable_tqdm": True, "learning_rate": 0.1}
    model_class = getattr(transformers, f"{kind}ForImageClassification")
    model = model_class(model_class.config_class(**SIZES))
    Trainer(model, TrainingArguments(kind, **options), train_dataset=ROWS, callbacks=[Look()]).train(resume_from_checkpoint=resume)
    return found["begin"]


for kind, left_out in (("ViT", 16), ("DeiT", 16), ("Beit", 17), ("ViTMSN", 16), ("Dinov2", 8)):
    initial = run(kind, None)
    resumed = run(kind, f"{kind}/checkpoint-4")
    saved = getattr(transformers, f"{kind}ForImageClassification").from_pretrained(f"{kind}/checkpoint-4").state_dict()
    other = [name for name in saved if not resumed[name].equal(saved[name])]
    print(f"{kind}: {len(other)} of {len(saved)} weights are not those of the checkpoint, such as {other[0]}")
    assert len(other) == left_out and all(".layers." in name or ".layer." in name for name in other)
    assert all(resumed[name].equal(initial[name]) for name in other)
PY

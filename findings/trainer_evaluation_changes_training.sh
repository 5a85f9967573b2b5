#!/usr/bin/env bash
# Evaluating more often trains other weights: transformers' Trainer lets evaluation draw from training's random state.
#
# Guess: `eval_strategy` decides when a model is measured, not what it becomes; evaluation is in eval mode, without dropout.
# Seen (transformers 5.23.0, accelerate 1.15.0, torch 2.13.0, CPU): each start of an evaluation's DataLoader takes one number
# from torch's global generator, so every dropout mask after it is another one. A run that evaluates at each step and
# one that never does end with other weights (2e-4 after 8 steps here); without dropout they are equal to the bit.
# Matters for: comparing runs that evaluate at different steps, "same seed" ablations, bit-exact resume with other
# evaluation settings. `torch.random.fork_rng` around `evaluate` keeps both apart.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python - <<'PY' 2>warnings.txt || { cat warnings.txt; exit 1; }
import contextlib
import os

import torch
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

ROWS = [{"pixel_values": torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(row)), "labels": row % 2}
        for row in range(16)]


def trained(dropout, eval_strategy, **options):
    set_seed(0)
    config = ViTConfig(image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                       intermediate_size=32, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    args = TrainingArguments("run", max_steps=8, per_device_train_batch_size=4, eval_strategy=eval_strategy, eval_steps=1,
                             save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True, seed=0, **options)
    model = ViTForImageClassification(config)
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        Trainer(model, args, train_dataset=ROWS, eval_dataset=ROWS).train()
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


before = torch.get_rng_state()
iter(torch.utils.data.DataLoader(ROWS))
assert not torch.equal(before, torch.get_rng_state()), "a DataLoader no longer draws from the global generator"
for dropout in (0.1, 0.0):
    never, always = trained(dropout, "no"), trained(dropout, "steps")
    again = trained(dropout, "no")
    assert torch.equal(never, again), "the same run twice differs"
    print(f"dropout {dropout}: largest difference of weights, never evaluated against at every step: "
          f"{(never - always).abs().max():.1e}")
    assert torch.equal(never, always) == (dropout == 0.0), "evaluation no longer changes training, or does without dropout"
print("as described")
PY

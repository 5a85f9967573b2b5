#!/usr/bin/env bash
# transformers' Trainer, resumed from the last checkpoint of a run that was complete within an epoch, trains one step more than it was told to.
#
# Guess: `max_steps=6` and a checkpoint of step 6: nothing is left to train, and the model is that of the checkpoint.
# Seen (transformers 5.23.0, torch 2.13.0, accelerate 1.15.0): 16 rows in batches of 4 are 4 steps an epoch; with `max_steps=6`, or with
# `num_train_epochs=1.5`, the resumed run ends at step 7 with other weights. The last epoch is entered once more, and the number of steps is looked at
# after a step alone. With `max_steps=8`, the end of an epoch, it ends at step 8, as it should.
# Matters for: jobs that are started again by a queue after they were done (a killed evaluation, a requeued job): a fine-tuned encoder is not the one
# that was evaluated, and each further start adds a step.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python - <<'PY' 2>warnings.txt || { cat warnings.txt; exit 1; }
import torch
from transformers import Trainer, TrainingArguments, set_seed

ROWS = [{"pixel_values": torch.full((3, 8, 8), number / 16), "labels": number % 2} for number in range(16)]


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.classifier = torch.nn.Linear(192, 2)

    def forward(self, pixel_values, labels):
        logits = self.classifier(pixel_values.flatten(1))
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def run(name, resume, **length):
    set_seed(0)
    options = {"per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 1, "save_total_limit": None}
    options |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "learning_rate": 0.1, "lr_scheduler_type": "constant"}
    trainer = Trainer(Classifier(), TrainingArguments(name, **options, **length), train_dataset=ROWS)
    trainer.train(resume_from_checkpoint=resume)
    return trainer.state.global_step, trainer.model.classifier.weight.detach().clone()


for name, length, end, after in (
    ("a", {"max_steps": 6}, 6, 7),
    ("b", {"num_train_epochs": 1.5}, 6, 7),
    ("c", {"max_steps": 8}, 8, 8),
):
    first, weights = run(name, None, **length)
    second, again = run(name, f"{name}/checkpoint-{end}", **length)
    print(f"{length}: trained to step {first}; resumed from there to step {second}, weights {'equal' if weights.equal(again) else 'changed'}")
    assert (first, second, weights.equal(again)) == (end, after, end == after)
PY

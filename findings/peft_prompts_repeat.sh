#!/usr/bin/env bash
# With transformers 5.24 PEFT's prompt tuning inserts its prompts again at every generated token, and its prefix tuning loses the prefix.
#
# Guess: `generate` of a tuned model gives the tokens that its own logits give one by one, as with the release before; a mismatch would be an error.
# Seen (peft 0.21.2, the newest on this day, transformers 5.24.0 and 5.23.0, torch 2.15.0, a small Llama, greedy): 5.24.0 hands the KV cache on as
# `cache`, PEFT looks for `past_key_values`. Prompt tuning then generates other text without a word, prefix tuning the text of the model without its prefix,
# under a FutureWarning that says that one of two names was ignored. Logits of a plain call are right, and so is `generate(use_cache=False)`.
# In 5.23.0 both generate what their logits say.
# Matters for: prompt, prefix and P-tuning of any decoder, also inside a multimodal model; a loss that falls does not show it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/generate.py" <<'PY'
import json

import peft
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
found = {}
for kind in ("PromptTuningConfig", "PrefixTuningConfig"):
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=None)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.3)
    ids = torch.tensor([[5, 6, 7]])
    options = {"max_new_tokens": 8, "do_sample": False}
    plain = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)[0, 3:].tolist()
    tuned = peft.get_peft_model(model, getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "prompt" in name:
                weight.normal_(0, 0.3 if kind.startswith("Prompt") else 3.0)
        one_by_one = ids
        for _ in range(8):
            logits = tuned(input_ids=one_by_one, attention_mask=torch.ones_like(one_by_one)).logits
            one_by_one = torch.cat([one_by_one, logits[:, -1:].argmax(-1)], dim=1)
    answers = {"untuned": plain, "logits": one_by_one[0, 3:].tolist()}
    generated = tuned.generate(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, **options)
    found[kind] = answers | {"generate": generated[0, 3:].tolist()}
print(json.dumps(found))
PY
for version in 5.23.0 5.24.0; do
    python3 -m venv "$folder/venv-$version"
    "$folder/venv-$version/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 "transformers==$version" peft==0.21.2 numpy==2.4.6
    (cd "$folder" && HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "venv-$version/bin/python" generate.py 2>"$version.log" | tail -n 1 > "$version.json") || { cat "$folder/$version.log"; exit 1; }
done
cd "$folder"
python3 - <<'PY'
import json

before, now = (json.load(open(f"{version}.json")) for version in ("5.23.0", "5.24.0"))
for kind in before:
    print(f"{kind}: 5.23.0 {before[kind]}, 5.24.0 {now[kind]}")
    assert before[kind]["generate"] == before[kind]["logits"] != before[kind]["untuned"]
    assert now[kind]["logits"] == before[kind]["logits"]
    assert now[kind]["generate"] != now[kind]["logits"]
assert now["PrefixTuningConfig"]["generate"] == now["PrefixTuningConfig"]["untuned"]
print("as described")
PY

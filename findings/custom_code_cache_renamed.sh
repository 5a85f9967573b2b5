#!/usr/bin/env bash
# transformers 5.24 calls the KV cache `cache`: a model of custom code that takes `past_key_values` generates other text, and only where a cache is used.
#
# Guess: 5.24 renames the argument with a deprecation until 5.40, as its own models show (`past_key_values=` still works, with a warning), so code
# that comes with weights, such as a multimodal model around a Llama, generates what it did.
# Seen (transformers 5.24.0 beside 5.23.0, torch 2.15.0): `generate` passes `cache=` to such a model. One that takes `**kwargs` without handing them on
# sees the last token alone at each step: other text, no error and no warning that says so. Without `**kwargs` it is a TypeError, and so is an output
# class of its own with a field `past_key_values`, also where nothing is generated. With `use_cache=False`, or where `**kwargs` go on
# to a decoder of transformers, the text is right. In 5.23.0 all of them generate the same.
# Matters for: every multimodal or custom decoder on the Hub whose code names `past_key_values`; a model has to take both names to work in both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/generate.py" <<'PY'
import json
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast, ModelOutput

TEXT = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIG = LlamaConfig(**TEXT, num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=None)


class Wrapper(PreTrainedModel, GenerationMixin):
    config_class = LlamaConfig

    def __init__(self, config):
        super().__init__(config)
        self.decoder = LlamaForCausalLM(config)
        self.post_init()

    def read(self, output=CausalLMOutputWithPast, **inputs):
        found = self.decoder(**inputs)
        return output(logits=found.logits, past_key_values=found.past_key_values)


class KeepsTheRest(Wrapper):
    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None, **kwargs):
        given = {"attention_mask": attention_mask, "position_ids": position_ids, "use_cache": use_cache}
        return self.read(input_ids=input_ids, past_key_values=past_key_values, **given)


class HandsOn(Wrapper):
    def forward(self, input_ids=None, past_key_values=None, **kwargs):
        return self.read(input_ids=input_ids, past_key_values=past_key_values, **kwargs)


class Strict(Wrapper):
    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None, logits_to_keep=0, return_dict=None):
        given = {"attention_mask": attention_mask, "position_ids": position_ids, "use_cache": use_cache}
        return self.read(input_ids=input_ids, past_key_values=past_key_values, **given)


@dataclass
class OwnOutput(ModelOutput):
    logits: Any = None
    past_key_values: Any = None


class WithOwnOutput(Wrapper):
    def forward(self, input_ids=None, past_key_values=None, **kwargs):
        return self.read(OwnOutput, input_ids=input_ids, past_key_values=past_key_values, **kwargs)


found = {}
for kind in (KeepsTheRest, HandsOn, Strict, WithOwnOutput):
    torch.manual_seed(0)
    model = kind(CONFIG).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.3)
    ids = torch.tensor([[5, 6, 7, 8]])
    for use_cache in (True, False):
        options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "do_sample": False, "use_cache": use_cache}
        try:
            answer = model.generate(input_ids=ids, **options)[0, 4:].tolist()
        except TypeError as error:
            answer = f"{type(error).__name__}: {error}"
        found[f"{kind.__name__} {'cache' if use_cache else 'none'}"] = answer
print(json.dumps(found))
PY
for version in 5.23.0 5.24.0; do
    python3 -m venv "$folder/venv-$version"
    "$folder/venv-$version/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 "transformers==$version" numpy==2.4.6
    (cd "$folder" && HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "venv-$version/bin/python" generate.py 2>"$version.log" | tail -n 1 > "$version.json") || { cat "$folder/$version.log"; exit 1; }
done
cd "$folder"
python3 - <<'PY'
import json

before, now = (json.load(open(f"{version}.json")) for version in ("5.23.0", "5.24.0"))
right = before["KeepsTheRest cache"]
for name in before:
    print(f"{name}: 5.23.0 {before[name]}, 5.24.0 {now[name]}")
    assert before[name] == right, name
assert isinstance(now["KeepsTheRest cache"], list) and now["KeepsTheRest cache"] != right
assert now["KeepsTheRest none"] == now["HandsOn cache"] == now["HandsOn none"] == now["Strict none"] == right
assert "unexpected keyword argument 'cache'" in now["Strict cache"]
assert "unexpected keyword argument 'cache'" in now["WithOwnOutput cache"]
assert "unexpected keyword argument 'cache'" in now["WithOwnOutput none"]
print("as described")
PY

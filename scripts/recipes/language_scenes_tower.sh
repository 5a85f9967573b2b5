#!/usr/bin/env bash
# First stage of language_scenes.sh and of easy_vqa.sh: a vision tower trained on labels of every patch of drawn scenes
# (colour, shape and middle of the object, numbers of objects). Skipped if it is there already.
source "$(dirname "$0")/common.sh"
# Mirrored and grey images: otherwise a shape is told by its colour too, and combinations that training did not have are
# taken for others. The recorded runs of easy_vqa.sh and the emoji study had a tower without them.
[ -f "$RUNS/language_scenes_tower/metrics.json" ] || python -m experiments.patches \
    --output_dir "$RUNS/language_scenes_tower" --muon_learning_rate 0.02 --learning_rate 2e-3 --bf16 "$BF16" \
    --scenes 24000 --flip true --grey 0.3 --per_device_train_batch_size 64 --num_train_epochs 16 --resume_from_checkpoint true \
    --config '{"image_size": 64, "patch_size": 8, "num_attention_heads": 4, "attn_implementation": "eager"}' "$@"

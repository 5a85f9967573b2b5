#!/usr/bin/env bash
# Text-only baseline of language_scenes.sh: trained without images, from the same second stage. What it reaches, the
# questions give away.
# Arguments given to this script come last and win.
source "$(dirname "$0")/../../scripts/recipes/common.sh"
bash scripts/recipes/language_scenes_words.sh
python scripts/train_language.py --dataset scenes:colour,shape,count,left_right,above_below --image_input nothing \
    --model "$RUNS/language_scenes_words" --text_muon_learning_rate 0.01 --learning_rate 1e-3 --bf16 "$BF16" \
    --per_device_train_batch_size 16 --lr_scheduler_type linear --warmup_steps 0.03 --max_steps 600 \
    --output_dir "$RUNS/language_scenes_blind" "$@"

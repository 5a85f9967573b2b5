#!/usr/bin/env bash
# Zero-shot classes from scratch in minutes: drawings of one object and their captions, then 48 names of colour and shape.
# begin zero_shot_recipe
# AMD EPYC, 1 thread(s), shared; 6 minutes.
# 2026-11-25: 97.5% of 480 drawings.
# end zero_shot_recipe
# Arguments given to this script come last and win, for instance --max_steps 600.
source "$(dirname "$0")/common.sh"
python scripts/train_retrieval.py --dataset scenes:1 --text new --train all --vectors single_vector --output_dir "$RUNS/zero_shot" \
    --config '{"image_size": 64, "patch_size": 8, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "attn_implementation": "eager"}' \
    --muon_learning_rate 0.02 --learning_rate 1e-3 --bf16 "$BF16" --max_steps 400 --do_predict false "$@"
python scripts/zero_shot.py --model "$RUNS/zero_shot" --dataset combinations

#!/usr/bin/env bash
# Zero-shot classes from nothing in minutes: drawings of one object and their captions, then 48 names of colour and shape.
# begin zero_shot_recipe
# AMD EPYC, 1 thread(s), shared; 6 minutes.
# 2026-11-25: 97.5% of 480 drawings, 48 classes.
# end zero_shot_recipe
# Arguments given to this script come last and win, for instance --max_steps 600.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Freed memory is kept for the next step: a tenth of each step would be page faults otherwise (glibc).
export MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_MAX_=0
BF16=$(python -c 'from modeling_omni_vision.analysis.record import has_bf16_instructions as has; print(has())')
python scripts/train_retrieval.py --dataset scenes:1 --text new --train all --vectors wholes --output_dir runs/zero_shot \
    --config '{"image_size": 64, "patch_size": 8, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "attn_implementation": "eager"}' \
    --muon_learning_rate 0.02 --learning_rate 1e-3 --bf16 "$BF16" --max_steps 400 --do_predict false "$@"
python scripts/zero_shot.py --checkpoint runs/zero_shot --dataset combinations

#!/usr/bin/env bash
# The stages of language_scenes.sh for a GPU: longer, in larger batches, with a tower that has seen grey and mirrored scenes.
# begin language_gpu_recipe
# NVIDIA H200, shared; 3 minutes.
# 2026-11-28: exact answers 99.7%; combinations of colour and shape not in training 98.9%.
# end language_gpu_recipe
# docs/gpu.md has three seeds. MINUTES=8 ends it in about that time, with its learning rates; the recorded runs had
# MINUTES=6.67 BF16=false.
# Arguments given to this script come last and win, for instance --seed 43; SEED=43 is for all stages.
source "$(dirname "$0")/common.sh"
SHAPE='"image_size": 64, "patch_size": 8, "num_attention_heads": 4'
SHARED=(--bf16 "$BF16" --resume_from_checkpoint true --seed "${SEED:-42}" --dataloader_num_workers "$WORKERS")
# In colours that no circle had in training, a circle was taken for a hexagon: grey images teach shapes without colours.
[ -f "$RUNS/language_gpu_tower/metrics.json" ] || python -m experiments.patches "${SHARED[@]}" \
    --output_dir "$RUNS/language_gpu_tower" --muon_learning_rate 0.02 --learning_rate 2e-3 $(limit 0.3) \
    --scenes 24000 --flip true --grey 0.3 --per_device_train_batch_size 128 --num_train_epochs 24 \
    --eval_strategy steps --eval_steps 500 --save_strategy steps --save_steps 500 \
    --config "{$SHAPE, \"attn_implementation\": \"$ATTENTION\"}"
COMMON=("${SHARED[@]}" --text_muon_learning_rate 0.01 --learning_rate 1e-3 --check headers)
# The vision tower is not in use yet: a language model learns to find objects in lists of words.
[ -f "$RUNS/language_gpu_words/metrics.json" ] || python -m experiments.language_controls "${COMMON[@]}" \
    --dataset scenes:colour,shape --image_input symbols --vision_feature_select_strategy grid --config "{$SHAPE}" \
    --text_config '{"num_hidden_layers": 4}' --output_dir "$RUNS/language_gpu_words" $(limit 0.15) \
    --per_device_train_batch_size 24 --lr_scheduler_type constant_with_warmup --max_steps 350 --do_predict false
COMMON+=(--per_device_train_batch_size 48)
[ -f "$RUNS/language_gpu_start/metrics.json" ] || python scripts/train_language.py "${COMMON[@]}" \
    --dataset scenes:colour,shape --vision "$RUNS/language_gpu_tower" --text "$RUNS/language_gpu_words" \
    --vision_feature_select_strategy grid --vision_learning_rate 0 --output_dir "$RUNS/language_gpu_start" \
    --lr_scheduler_type constant_with_warmup --max_steps 250 --do_predict false $(limit 0.08)
KINDS="${KINDS:-scenes:colour,shape,count,left_right,above_below}"
[ -f "$RUNS/language_gpu_middle/metrics.json" ] || python scripts/train_language.py "${COMMON[@]}" \
    --dataset "$KINDS" --model "$RUNS/language_gpu_start" --vision_learning_rate 0 \
    --output_dir "$RUNS/language_gpu_middle" \
    --lr_scheduler_type constant_with_warmup --max_steps 1000 --do_predict false $(limit 0.17)
python scripts/train_language.py "${COMMON[@]}" --dataset "$KINDS + scenes:left_right + scenes:count" \
    --model "$RUNS/language_gpu_middle" --vision_learning_rate 2e-4 --muon_learning_rate 0.001 \
    --lr_scheduler_type linear --warmup_steps 0.03 --max_steps 6000 $(limit 0.45) \
    --eval_strategy steps --eval_steps 500 --save_strategy steps --save_steps 500 --output_dir "$RUNS/language_gpu" "$@"

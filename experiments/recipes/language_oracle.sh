#!/usr/bin/env bash
# Control of language_scenes.sh with nothing to recognise: the input is maps of symbols (--image_input symbol_map), the
# labels on which `experiments.patches` trains a vision tower, without a mistake. What it misses is not a fault of recognition.
# begin oracle_recipe
# AMD EPYC, 1 thread(s), shared; 19 minutes.
# 2026-11-25: exact answers 99.4%.
# end oracle_recipe
# Arguments given to this script come last and win, for instance --resume_from_checkpoint true.
source "$(dirname "$0")/../../scripts/recipes/common.sh"
bash scripts/recipes/language_scenes_words.sh
COMMON=(--image_input symbol_map --attn_implementation eager --text_muon_learning_rate 0.01 --learning_rate 1e-3 --bf16 "$BF16"
    --resume_from_checkpoint true --per_device_train_batch_size 16)
# The same language model as with images, and a new vision tower of one layer that learns to read the symbols...
[ -f "$RUNS/language_oracle_start/metrics.json" ] || python -m experiments.language_controls "${COMMON[@]}" \
    --dataset scenes:colour,shape --text "$RUNS/language_scenes_words" --vision_feature_select_strategy grid --vision_learning_rate 3e-3 \
    --config '{"image_size": 64, "patch_size": 8, "num_attention_heads": 4, "num_hidden_layers": 1}' \
    --output_dir "$RUNS/language_oracle_start" --lr_scheduler_type constant_with_warmup --max_steps 250 --do_predict false
# ...and is frozen while the questions become those of language_scenes.sh. In the last stage it is trained too, as there.
KINDS=scenes:colour,shape,count,left_right,above_below
[ -f "$RUNS/language_oracle_middle/metrics.json" ] || python -m experiments.language_controls "${COMMON[@]}" \
    --dataset "$KINDS" --model "$RUNS/language_oracle_start" --vision_learning_rate 0 \
    --output_dir "$RUNS/language_oracle_middle" --lr_scheduler_type constant_with_warmup --max_steps 1200 --do_predict false
python -m experiments.language_controls "${COMMON[@]}" --dataset "$KINDS + scenes:left_right + scenes:count" \
    --model "$RUNS/language_oracle_middle" --vision_learning_rate 2e-4 --lr_scheduler_type linear --warmup_steps 0.03 \
    --max_steps 5000 --eval_strategy steps --eval_steps 250 --save_strategy steps --save_steps 250 \
    --output_dir "$RUNS/language_oracle" "$@"

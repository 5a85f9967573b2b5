#!/usr/bin/env bash
# easy-VQA (4,000 drawn images, 13 answers; https://github.com/vzhou842/easy-VQA): a small vision-language
# model from scratch.
# begin easy_vqa_recipe
# AMD EPYC, 1 thread(s), shared; 8 minutes for the last part, after checkpoint-470.
# 2026-11-24: exact answers 99.9%.
# end easy_vqa_recipe
# Data: pip install --no-deps easy-vqa. The vision tower is that of language_scenes.sh.
# Arguments given to this script come last and win, for instance --resume_from_checkpoint true.
source "$(dirname "$0")/common.sh"
bash scripts/recipes/language_scenes_tower.sh
python scripts/train_language.py --dataset easy-vqa --vision "$RUNS/language_scenes_tower" --vision_feature_select_strategy grid \
    --scale_factor 2 --text_config '{"num_hidden_layers": 4}' --text_muon_learning_rate 0.01 --learning_rate 1e-3 \
    --vision_learning_rate 3e-4 --muon_learning_rate 0.002 --bf16 "$BF16" --per_device_train_batch_size 16 \
    --num_train_epochs 7 --output_dir "$RUNS/easy_vqa" "$@"

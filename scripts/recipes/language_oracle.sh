#!/usr/bin/env bash
# A control of the model of language_scenes.sh that is told in words what a picture shows, from the same words, in stages
# like those, but of fewer steps. A ceiling for colours and shapes only: it does not learn sides, which it would have to
# tell from numbers of columns and rows; these questions alone, before the last stage, did not start it either.
# begin oracle_recipe
# AMD EPYC, 1 thread(s), shared; 5 minutes for the last stage.
# 2026-11-25: exact answers 64.8%, about combinations never seen 67.1%.
# end oracle_recipe
# Arguments given to this script come last and win, for instance --resume_from_checkpoint true.
source "$(dirname "$0")/common.sh"
bash scripts/recipes/language_scenes_words.sh
KINDS=scenes:colour,shape,count,left_right,above_below
COMMON=(--shown symbols --attn_implementation eager --text_muon_learning_rate 0.01 --learning_rate 1e-3 --bf16 "$BF16"
    --resume_from_checkpoint true --per_device_train_batch_size 16)
[ -f "$RUNS/language_oracle_middle/metrics.json" ] || python scripts/train_language.py "${COMMON[@]}" \
    --dataset "$KINDS" --model "$RUNS/language_scenes_words" --output_dir "$RUNS/language_oracle_middle" \
    --lr_scheduler_type constant_with_warmup --max_steps 600 --do_predict false
python scripts/train_language.py "${COMMON[@]}" --dataset "$KINDS + scenes:left_right + scenes:count" \
    --model "$RUNS/language_oracle_middle" --lr_scheduler_type linear --warmup_steps 0.03 --max_steps 700 \
    --eval_strategy steps --eval_steps 350 --save_strategy steps --save_steps 350 \
    --output_dir "$RUNS/language_oracle" "$@"

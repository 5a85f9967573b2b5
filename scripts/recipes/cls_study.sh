#!/usr/bin/env bash
# Does CLS dominate late interaction? The checkpoints of docs/search/cls.md and their study.
# More than an hour of one core that computes in bfloat16. Arguments given to this script go to the study. Another seed:
# SEED=43 scripts/recipes/cls_study.sh --output docs/search/seed_43
# docs/search/seed_44 and seed_45 hold three of these checkpoints only.
source "$(dirname "$0")/common.sh"
SEED="${SEED:-42}"
CLS="$RUNS/cls_$SEED"
SIZE='"image_size": 64, "patch_size": 8, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "attn_implementation": "eager"'
train() {
    if [ ! -f "$CLS/$1/metrics.json" ]; then
        python scripts/train_retrieval.py --dataset scenes --output_dir "$CLS/$1" --bf16 "$BF16" \
            --seed "$SEED" --resume_from_checkpoint true "${@:2}"
    fi
}
REGISTERS="{$SIZE, \"num_register_tokens\": 4}"
NEW=(--train all --config "{$SIZE}" --muon_learning_rate 0.02 --num_train_epochs 4)
FIRST=("${NEW[@]}" --text_sampling first)
LORA=(--model "$CLS/wholes" --train image --lora_rank 8 --learning_rate 2e-3 --num_train_epochs 1 --vectors multi_vector)
train parts "${FIRST[@]}" --text new --vectors multi_vector
train parts_wide "${FIRST[@]}" --text new:128 --vectors multi_vector
train parts_wide_each "${NEW[@]}" --text new:128 --vectors multi_vector
train parts_minilm "${FIRST[@]}" --text minilm --train image --vectors multi_vector
train both "${FIRST[@]}" --text new --vectors both
train both_registers "${FIRST[@]}" --text new --vectors both --config "$REGISTERS"
train both_registers_each "${NEW[@]}" --text new:128 --vectors both --config "$REGISTERS"
train fifth_registers_each "${NEW[@]}" --text new:128 --vectors both --single_vector_weight 0.2 --config "$REGISTERS"
train wholes "${FIRST[@]}" --text new:128 --vectors single_vector --num_train_epochs 2
train lora "${LORA[@]}" --text_sampling first
train lora_cls "${LORA[@]}" --text_sampling first --vision_feature_select_strategy cls+grid
python scripts/cls_study.py --scenes 100 --output docs/search --checkpoints \
    "parts=$CLS/parts" "multi_vector, wider text encoder=$CLS/parts_wide" \
    "multi_vector, wider text encoder, texts of each object too=$CLS/parts_wide_each" \
    "multi_vector, frozen MiniLM=$CLS/parts_minilm" \
    "parts and wholes=$CLS/both" "parts and wholes, four registers=$CLS/both_registers" \
    "parts and wholes, four registers, wider text encoder, texts of each object too=$CLS/both_registers_each" \
    "parts and a fifth of wholes, four registers, wider text encoder, texts of each object too=$CLS/fifth_registers_each" \
    "wholes=$CLS/wholes" "single_vector, then LoRA for parts=$CLS/lora" \
    "single_vector, then LoRA for parts with CLS=$CLS/lora_cls" "$@"

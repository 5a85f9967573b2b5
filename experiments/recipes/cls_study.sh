#!/usr/bin/env bash
# Does CLS dominate late interaction? The models of docs/search/cls.json and their study.
# More than an hour of one core with bfloat16 instructions. Arguments given to this script go to the study. Another seed:
# SEED=43 experiments/recipes/cls_study.sh --output docs/search/seed_43
# docs/search/seed_44 and seed_45 hold three of these models only.
source "$(dirname "$0")/../../scripts/recipes/common.sh"
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
LORA=(--model "$CLS/single_vector" --train image --lora_rank 8 --learning_rate 2e-3 --num_train_epochs 1 --vectors multi_vector)
train multi_vector "${FIRST[@]}" --text new --vectors multi_vector
train multi_vector_wide "${FIRST[@]}" --text new:128 --vectors multi_vector
train multi_vector_wide_each "${NEW[@]}" --text new:128 --vectors multi_vector
train multi_vector_minilm "${FIRST[@]}" --text minilm --train image --vectors multi_vector
train both "${FIRST[@]}" --text new --vectors both
train both_registers "${FIRST[@]}" --text new --vectors both --config "$REGISTERS"
train both_registers_each "${NEW[@]}" --text new:128 --vectors both --config "$REGISTERS"
train fifth_registers_each "${NEW[@]}" --text new:128 --vectors both --single_vector_weight 0.2 --config "$REGISTERS"
train single_vector "${FIRST[@]}" --text new:128 --vectors single_vector --num_train_epochs 2
train lora "${LORA[@]}" --text_sampling first
train lora_cls "${LORA[@]}" --text_sampling first --vision_feature_select_strategy cls+grid
WIDE="four registers, wider text encoder, texts of each object too"
python -m experiments.cls_study --scenes 100 --output docs/search --models \
    "multi_vector=$CLS/multi_vector" "multi_vector, wider text encoder=$CLS/multi_vector_wide" \
    "multi_vector, wider text encoder, texts of each object too=$CLS/multi_vector_wide_each" \
    "multi_vector, frozen MiniLM=$CLS/multi_vector_minilm" \
    "both=$CLS/both" "both, four registers=$CLS/both_registers" "both, $WIDE=$CLS/both_registers_each" \
    "both, a fifth of the loss single_vector, $WIDE=$CLS/fifth_registers_each" \
    "single_vector=$CLS/single_vector" "single_vector, then LoRA for multi_vector=$CLS/lora" \
    "single_vector, then LoRA for multi_vector with CLS=$CLS/lora_cls" "$@"

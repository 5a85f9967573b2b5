#!/usr/bin/env bash
# Does CLS dominate late interaction? The checkpoints of docs/search/cls.md, one seed each, and their study.
# About an hour of one core in all. Arguments given to this script go to the study.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_MAX_=0
TOWER='{"image_size": 64, "patch_size": 8, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}'
train() {
    if [ ! -f "runs/cls/$1/metrics.json" ]; then
        python scripts/train_retrieval.py --dataset scenes --output_dir "runs/cls/$1" --resume_from_checkpoint true "${@:2}"
    fi
}
NEW=(--train all --config "$TOWER" --muon_learning_rate 0.02)
LORA=(--model runs/cls/wholes --train picture --lora_rank 8 --learning_rate 2e-3 --num_train_epochs 1 --vectors parts)
train parts "${NEW[@]}" --text new --vectors parts --num_train_epochs 4
train parts_wide "${NEW[@]}" --text new:128 --vectors parts --num_train_epochs 4
train both "${NEW[@]}" --text new --vectors both --num_train_epochs 4
train wholes "${NEW[@]}" --text new:128 --vectors wholes --num_train_epochs 2
train lora "${LORA[@]}"
train lora_cls "${LORA[@]}" --select_tokens cls+grid
python scripts/cls_study.py --scenes 40 --output docs/search --checkpoints \
    "parts=runs/cls/parts" "parts, wider text encoder=runs/cls/parts_wide" "parts and wholes=runs/cls/both" \
    "wholes=runs/cls/wholes" "wholes, then LoRA for parts=runs/cls/lora" \
    "wholes, then LoRA for parts with CLS=runs/cls/lora_cls" "$@"

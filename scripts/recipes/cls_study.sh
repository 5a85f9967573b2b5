#!/usr/bin/env bash
# Does CLS dominate late interaction? The checkpoints of docs/search/cls.md, one seed each, and their study.
# About an hour of one core in all. Arguments given to this script go to the study.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_MAX_=0
BF16=$(python -c 'from modeling_omni_vision.analysis.record import has_bf16_instructions as has; print(has())')
SIZE='"image_size": 64, "patch_size": 8, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "attn_implementation": "eager"'
train() {
    if [ ! -f "runs/cls/$1/metrics.json" ]; then
        python scripts/train_retrieval.py --dataset scenes --output_dir "runs/cls/$1" --bf16 "$BF16" \
            --resume_from_checkpoint true "${@:2}"
    fi
}
NEW=(--train all --config "{$SIZE}" --muon_learning_rate 0.02 --num_train_epochs 4)
LORA=(--model runs/cls/wholes --train picture --lora_rank 8 --learning_rate 2e-3 --num_train_epochs 1 --vectors parts)
train parts "${NEW[@]}" --text new --vectors parts
train parts_wide "${NEW[@]}" --text new:128 --vectors parts
train parts_minilm "${NEW[@]}" --text minilm --train picture --vectors parts
train both "${NEW[@]}" --text new --vectors both
train both_registers "${NEW[@]}" --text new --vectors both --config "{$SIZE, \"num_register_tokens\": 4}"
train wholes "${NEW[@]}" --text new:128 --vectors wholes --num_train_epochs 2
train lora "${LORA[@]}"
train lora_cls "${LORA[@]}" --select_tokens cls+grid
python scripts/cls_study.py --scenes 100 --output docs/search --checkpoints \
    "parts=runs/cls/parts" "parts, wider text encoder=runs/cls/parts_wide" "parts, frozen MiniLM=runs/cls/parts_minilm" \
    "parts and wholes=runs/cls/both" "parts and wholes, four registers=runs/cls/both_registers" \
    "wholes=runs/cls/wholes" "wholes, then LoRA for parts=runs/cls/lora" \
    "wholes, then LoRA for parts with CLS=runs/cls/lora_cls" "$@"

#!/usr/bin/env bash
# Fashion-MNIST with the specification's body at 28 px, patch 4: a plain ViT from scratch, 0.80 M parameters.
# begin recipe
# AMD EPYC, 1 thread(s), shared; 47 minutes.
# 2026-11-22: test accuracy 90.90%, 95 % bootstrap interval 90.34% to 91.43%.
# end recipe
# Data: the four IDX files (.gz as they are) in data/fashion_mnist; Debian's package dataset-fashion-mnist holds them.
# Arguments given to this script come last and win, for instance --resume_from_checkpoint true.
set -euo pipefail
cd "$(dirname "$0")/../.."
# Names of the classes, one in a line; without them they are called 0 to 9.
printf '%s\n' "T-shirt/top" Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag "Ankle boot" > data/fashion_mnist/classes.txt
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
python scripts/train.py --dataset data/fashion_mnist --validation_share 5000 --output_dir runs/fashion_mnist \
    --config '{"image_size": 28, "patch_size": 4, "num_channels": 1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "drop_path_rate": 0.05, "pooling": "cls", "attn_implementation": "eager"}' \
    --flip true --shift 2 --random_erasing 0.25 --label_smoothing_factor 0.1 --ema_decay 0.999 --bf16 true \
    --per_device_train_batch_size 128 --learning_rate 1e-3 --weight_decay 0.05 --warmup_steps 0.05 \
    --num_train_epochs 36 "$@"

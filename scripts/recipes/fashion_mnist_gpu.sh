#!/usr/bin/env bash
# Fashion-MNIST with the specification's body, for a GPU: 250 epochs in large batches with stronger changes of the images.
# experiments/fashion_mnist_record.py chooses among its variants; docs/gpu.md has what came out.
# Data: as for scripts/recipes/fashion_mnist.sh. Arguments given to this script come last and win, for instance --seed 43.
# On one GPU images stay there and steps are replayed as CUDA graphs; on a processor it takes days.
source "$(dirname "$0")/common.sh"
# Without their names classes are called 0 to 9.
cp scripts/recipes/fashion_mnist_classes.txt data/fashion_mnist/classes.txt
python scripts/train.py --dataset data/fashion_mnist --validation_fraction 5000 --bf16 "$BF16" \
    --per_device_train_batch_size 1024 --per_device_eval_batch_size 1000 --muon_learning_rate 0.02 --learning_rate 2e-3 \
    --weight_decay 0.05 --label_smoothing_factor 0.1 --ema_decay 0.999 --flip true --max_translate 2 --random_erasing 0.25 \
    --lr_scheduler_type linear --warmup_steps 0.02 --num_train_epochs 250 --output_dir "$RUNS/fashion_mnist_gpu" \
    --eval_strategy steps --eval_steps 0.05 --save_strategy steps --save_steps 0.05 --save_total_limit 1 \
    --logging_steps 0.01 --disable_tqdm true --resume_from_checkpoint true \
    --config '{"image_size": 28, "patch_size": 4, "num_channels": 1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "patch_drop_rate": 0.25, "pooling": "mean"}' \
    "$@"

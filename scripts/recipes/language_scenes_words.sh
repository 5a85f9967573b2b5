#!/usr/bin/env bash
# Second stage of language_scenes.sh, from which its controls start too: a language model learns to find objects by their
# colour and shape in lists of words (--image_input symbols). Skipped if it is there already.
source "$(dirname "$0")/common.sh"
bash scripts/recipes/language_scenes_tower.sh
[ -f "$RUNS/language_scenes_words/metrics.json" ] || python -m experiments.language_controls \
    --text_muon_learning_rate 0.01 --learning_rate 1e-3 --bf16 "$BF16" --resume_from_checkpoint true \
    --dataset scenes:colour,shape --image_input symbols --vision "$RUNS/language_scenes_tower" --vision_feature_select_strategy grid \
    --text_config '{"num_hidden_layers": 4}' --output_dir "$RUNS/language_scenes_words" \
    --per_device_train_batch_size 24 --lr_scheduler_type constant_with_warmup --max_steps 350 --do_predict false "$@"

#!/usr/bin/env bash
# Ways to show a picture to the same language model, each trained equally briefly on questions about colours and shapes.
# It starts from two stages of language_scenes.sh: the tower, and the words. Here the tower is trained too, since CLS has
# learnt nothing before.
# Arguments given to this script come last and win, for instance --max_steps 800.
source "$(dirname "$0")/common.sh"
bash scripts/recipes/language_scenes_words.sh
show() {
    local name="$1"
    shift
    [ -f "$RUNS/fusions/$name/metrics.json" ] || python scripts/train_language.py --dataset scenes:colour,shape \
        --vision "$RUNS/language_scenes_tower" --text "$RUNS/language_scenes_words" --output_dir "$RUNS/fusions/$name" \
        --text_muon_learning_rate 0.01 --learning_rate 1e-3 --vision_learning_rate 3e-4 \
        --per_device_train_batch_size 16 --lr_scheduler_type linear --warmup_steps 0.03 --max_steps 600 \
        --bf16 "$BF16" --attn_implementation eager "$@"
}
show grid --select_feature grid "$@"
show reduced --select_feature grid --pixel_shuffle 2 "$@"
show late --fusion late --select_feature grid --cross_attention_every 1 "$@"
show cls --select_feature cls "$@"
python scripts/compare_fusions.py --output docs/language/fusions.json --runs "grid=$RUNS/fusions/grid" \
    "reduced grid=$RUNS/fusions/reduced" "late fusion=$RUNS/fusions/late" "CLS=$RUNS/fusions/cls"

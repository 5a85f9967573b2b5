#!/usr/bin/env bash
# Search in drawn scenes from scratch: a vision tower (64 px, patch 8) and a text encoder of two layers.
# begin search_recipe
# AMD EPYC, 1 thread(s), shared; 25 minutes.
# 2026-11-24: nDCG@10 of a text's image 0.963.
# end search_recipe
# The 20,200 scenes are drawn once, in a minute or two, and kept in the cache of the datasets library.
# Arguments given to this script come last and win, for instance --resume_from_checkpoint true.
source "$(dirname "$0")/common.sh"
# Captions alone (`--text_sampling first`): with texts of single objects maps point better, and one vector finds less well.
python scripts/train_retrieval.py --dataset scenes --text_sampling first --text new --train all --output_dir "$RUNS/search" \
    --config '{"image_size": 64, "patch_size": 8, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}' \
    --muon_learning_rate 0.02 --num_train_epochs 4 "$@"

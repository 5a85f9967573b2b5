#!/usr/bin/env bash
# Fashion-MNIST with the specification's body at 28 px, patch 4: a plain ViT from scratch, 0.80 M parameters.
#
# Machine, minutes, score and date: see "Numbers" in README.md, filled from the metrics.json of this very run
# (checkpoints/omni-vision-fashion-mnist); 28 epochs later than the quickest useful one, which passes 85 % by epoch 8.
#
# Data: the four IDX files of Fashion-MNIST (.gz as they are) in data/fashion_mnist; Debian has them as the package
# dataset-fashion-mnist. Further arguments replace or add to those below, for instance --resume_from_checkpoint true.
set -euo pipefail
cd "$(dirname "$0")/../.."

#!/usr/bin/env bash
# Files that safetensors saves can be read by their owner alone, whatever the umask says.
#
# Guess: `save_file` makes a file as `open` does, 0644 under the usual umask of 022.
# Seen (safetensors 0.8.0, Linux, Python 3.11): the mode is 0600. `save_pretrained` of transformers, checkpoints of its Trainer
# and everything else that saves by safetensors have it, beside configurations of 0644.
# Matters for: weights that a colleague, a web server or a container of another user is to read.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cd "$folder"
umask 022
venv/bin/python - <<'PY'
import os

import numpy as np
from safetensors.numpy import save_file

save_file({"weight": np.ones(2)}, "weights.safetensors")
open("config.json", "w").close()
modes = {name: oct(os.stat(name).st_mode & 0o777) for name in ("weights.safetensors", "config.json")}
print(modes)
assert modes == {"weights.safetensors": "0o600", "config.json": "0o644"}, "the mode is another one now"
print("as described")
PY

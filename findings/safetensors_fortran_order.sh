#!/usr/bin/env bash
# safetensors saves transposed NumPy arrays with their values in another order.
#
# Guess: `safetensors.numpy.save_file` saves the array that it is given, whatever its order in memory, as `np.save` does and as 0.7.0 did,
# or refuses it, as `safetensors.torch.save_file` refuses tensors that are not contiguous.
# Seen (safetensors 0.8.0, numpy 2.4.6): it writes the memory of the array in the order in which it lies and the shape beside it. A transposed
# or Fortran-ordered array comes back with the right shape and type, and its values scrambled. No error, no warning.
# `np.ascontiguousarray` before saving avoids it. Reported upstream as issue 825 of huggingface/safetensors.
# Matters for: weights turned by `.T` in a conversion (Dense of Keras or Flax to Linear), projections of scikit-learn's PCA, whose arrays are
# Fortran-ordered, arrays read by column.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import numpy as np
from safetensors.numpy import load_file, save_file

weight = np.arange(6, dtype=np.float32).reshape(2, 3)
arrays = {
    "as it is": weight,
    "transposed": weight.T,
    "transposed, copied": np.ascontiguousarray(weight.T),
    "Fortran order": np.asfortranarray(weight),
    "channels first of last": np.arange(24, dtype=np.float32).reshape(2, 4, 3).transpose(2, 0, 1),
}
right = {}
for name, array in arrays.items():
    save_file({"weight": array}, "weights.safetensors")
    loaded = load_file("weights.safetensors")["weight"]
    assert loaded.shape == array.shape and loaded.dtype == array.dtype
    assert np.array_equal(np.sort(loaded, axis=None), np.sort(array, axis=None))
    right[name] = np.array_equal(loaded, array)
    print(f"{name:23} {'the same' if right[name] else 'other values: ' + str(loaded.tolist())[:70]}")
wrong = {name for name in right if not right[name]}
assert wrong == {"transposed", "Fortran order", "channels first of last"}, wrong
print("as described")
PY

#!/usr/bin/env bash
# Ray Data hides what a class given to `map_batches` raised: `error.cause` says how to configure retries.
#
# Guess: as with plain actors, the `cause` of the `RayTaskError` that the driver catches is the exception that was raised.
# Seen (ray 2.60.0): it is a `UserCodeException` whose three lines say that a UDF failed and which settings retry it; it
# has no `__cause__`. The exception stands only in the text of a traceback, as `str(error)` gives it.
# Matters for: programs that show users the sentence of an error, or act on its class.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'ray[data]==2.60.0'
cd "$folder"
cat > driver.py <<'PY'
import logging

import ray
import ray.data

logging.getLogger("ray.data").setLevel(logging.CRITICAL)


class Fails:
    def __call__(self, batch):
        raise ValueError("image 17 is broken")


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False)
    rows = ray.data.from_items([1, 2])
    try:
        rows.map_batches(Fails, batch_size=1, compute=ray.data.ActorPoolStrategy(size=1)).take_all()
    except ray.exceptions.RayError as error:
        print(repr(error.cause))
        assert not isinstance(error.cause, ValueError)
        assert "image 17" not in str(error.cause)
        assert error.cause.__cause__ is None
        assert "image 17" in str(error)
PY
RAY_USAGE_STATS_ENABLED=0 venv/bin/python driver.py

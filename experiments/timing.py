"""Times steps that take turns."""

import math
import random
import time
from collections.abc import Callable
from typing import Any


SECONDS_PER_SAMPLE = 0.05

Samples = dict[str, dict[str, list[float]]]


def time_in_turns(steps: dict[str, Callable[[], Any]], rounds: int) -> Samples:
    """Return milliseconds of CPU and wall time per step and round, for each of the steps, taking turns."""
    names = list(steps)
    for step in steps.values():
        step()
    started = time.perf_counter()
    for step in steps.values():
        step()
    # Short steps are repeated, equally often for all, until a clock tick is nothing beside them.
    repeats = max(1, math.ceil(SECONDS_PER_SAMPLE * len(steps) / (time.perf_counter() - started)))
    samples: Samples = {name: {"cpu_ms": [], "wall_ms": []} for name in names}
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        # A fixed order would always give one contestant the caches and the heap that the same other one left.
        shuffle(names)
        for name in names:
            steps[name]()
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(repeats):
                steps[name]()
            samples[name]["cpu_ms"].append(1e3 * (time.process_time() - cpu) / repeats)
            samples[name]["wall_ms"].append(1e3 * (time.perf_counter() - wall) / repeats)
    return samples


__all__ = ["Samples", "time_in_turns"]

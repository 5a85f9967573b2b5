"""Studies, and benchmarks against peers: not part of the package, not in the wheel."""

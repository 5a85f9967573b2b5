# Sourced by every recipe: it stops at the first error and works from the root of the checkout, on one thread unless
# OMP_NUM_THREADS says otherwise. RUNS is the folder of the runs, BF16 whether to compute in bfloat16: on a GPU, and on a
# processor with instructions for it. WORKERS load data: a GPU waits for one process. ATTENTION that is eager is faster on a
# processor, sdpa on a GPU. MINUTES, if set, limit training: each stage ends its schedule in its share of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Freed memory is kept for the next step: a tenth of each step would be page faults otherwise (glibc).
export MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_MAX_=0
RUNS="${RUNS:-runs}"
BF16="${BF16:-$(python -c 'from modeling_omni_vision.records.machine import computes_in_bf16 as does; print(does())')}"
WORKERS="${WORKERS:-0}"
ATTENTION="${ATTENTION:-eager}"
limit() { [ -z "${MINUTES:-}" ] || awk "BEGIN { printf \"--max_minutes %.3f\", $MINUTES * $1 }"; }

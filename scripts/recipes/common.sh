# Sourced by every recipe: it stops at the first error and works from the root of the checkout, on one thread unless
# OMP_NUM_THREADS says otherwise. RUNS is the folder of the runs, BF16 whether the processor has bfloat16 instructions.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Freed memory is kept for the next step: a tenth of each step would be page faults otherwise (glibc).
export MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_MAX_=0
RUNS="${RUNS:-runs}"
BF16=$(python -c 'from modeling_omni_vision.records.machine import has_bf16_instructions as has; print(has())')

#!/usr/bin/env bash
# All checks that need a card, in under eight minutes on one, from a bare checkout without a network:
#   benchmarks/on_gpu.sh [--dry] [PYTHON]
# It needs an environment with what this package needs, its tests' packages and "jax[cuda12]" (or
# cuda13); the package itself need not be installed. Figures and targets are written as one table to
# gpu-figures.txt; docs/benchmarks.md takes them from there, with the card's name.
#   --dry   every step on the processor with tiny shapes: all but the card itself is tried
set -uo pipefail
cd "$(dirname "$0")/.."
dry=
if [ "${1:-}" = --dry ]; then dry=--dry && shift; fi
python=${1:-python3}
out=gpu-figures.txt
if ! command -v "$python" > /dev/null; then
  echo "there is no '$python' here; name an interpreter: benchmarks/on_gpu.sh .venv/bin/python" >&2
  exit 1
fi
if [ -z "$dry" ] && ! nvidia-smi > /dev/null 2>&1; then
  echo "no NVIDIA card is seen here: nvidia-smi is missing or fails. To try everything but the card," \
    "on the processor: benchmarks/on_gpu.sh --dry $python" >&2
  exit 1
fi

# the packages laid out as they are named, where nothing is installed
tree=build/gpu
rm -rf "$tree" && mkdir -p "$tree/edgewise"
ln -s "$PWD"/edgewise/* "$tree/edgewise/"
for folder in graphs patching discovery visualize; do ln -s "$PWD/$folder" "$tree/edgewise/"; done
export PYTHONPATH="$PWD/$tree:$PWD" HF_HUB_OFFLINE=1
export XLA_PYTHON_CLIENT_PREALLOCATE=${XLA_PYTHON_CLIENT_PREALLOCATE:-false}
export JAX_ENABLE_COMPILATION_CACHE=false # a first call compiles
run() { echo "\$ $*" | tee -a "$out"; timeout "$limit" "$@" 2>&1 | grep -v Warning | tee -a "$out"; }

: > "$out"
start=$SECONDS cases=2 slow=1
tests=(tests/patching/compiled/test_{memory,parity,circuits}.py tests/patching/test_cuda.py)
if [ -z "$dry" ]; then
  nvidia-smi --query-gpu=name,memory.total --format=csv,noheader | tee -a "$out"
else
  echo "dry run on the processor: figures mean nothing" | tee -a "$out"
  export EDGEWISE_TEST_DEVICE=cpu OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  tests=(tests/patching/compiled/test_scoring.py tests/patching/test_cuda.py) cases=1 slow=5
fi
"$python" -c 'import jax, torch; print("JAX", jax.__version__, jax.devices(), "torch", torch.__version__)' \
  2>&1 | tail -1 | tee -a "$out"
limit=$((100 * slow)) run "$python" -m pytest -q -p no:cacheprovider --fast --fast-cases "$cases" "${tests[@]}"
limit=$((340 * slow)) run "$python" benchmarks/on_gpu.py $dry
echo "$((SECONDS - start)) seconds; written: $out" | tee -a "$out"

#!/usr/bin/env bash
# All checks that need a card, in under eight minutes on one, from a bare checkout without a network:
#   benchmarks/on_gpu.sh [PYTHON]
# It needs an environment with what this package needs, its tests' packages and "jax[cuda12]" (or
# cuda13); the package itself need not be installed. Figures
# are written to gpu-figures.txt; docs/benchmarks.md takes them from there, with the card's name.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
tree=build/gpu # the packages laid out as they are named, where nothing is installed
rm -rf "$tree" && mkdir -p "$tree/edgewise"
ln -s "$PWD"/edgewise/* "$tree/edgewise/"
for folder in graphs patching discovery visualize; do ln -s "$PWD/$folder" "$tree/edgewise/"; done
export PYTHONPATH="$PWD/$tree:$PWD" HF_HUB_OFFLINE=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
out=gpu-figures.txt
run() { echo "\$ $*" | tee -a "$out"; timeout "$limit" "$@" 2>&1 | grep -v Warning | tee -a "$out"; }

: > "$out"
nvidia-smi --query-gpu=name,memory.total --format=csv,noheader | tee -a "$out"
"$python" -c 'import jax, torch; print(jax.__version__, jax.devices(), torch.__version__)' | tee -a "$out"
limit=120 run "$python" -m pytest -q --fast --fast-cases 12 tests/patching/compiled tests/patching/test_cuda.py
limit=60 run "$python" benchmarks/engines.py --device cuda --model gpt2-small-shape --pairs 32 --length 16
limit=60 run "$python" benchmarks/engines.py --device cuda --model llama-1b-shape --length 16
limit=100 run "$python" benchmarks/engines.py --device cuda --model llama-8b-shape --length 16 --rounds 2
limit=100 run "$python" benchmarks/engines.py --device cuda --model llama-8b-shape --pairs 4 --length 128 \
  --rounds 2 --engines jax
echo "written: $out"

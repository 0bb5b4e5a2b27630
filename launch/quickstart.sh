#!/usr/bin/env bash
# The whole loop on scikit-learn's handwritten digits; further flags are passed on.
#
#   bash launch/quickstart.sh
#   bash launch/quickstart.sh --config.seed=1 --workdir=runs/digits_1
set -euo pipefail
FLAGS=("$@")
source "$(dirname "$0")/environment.sh" ""

WORKDIR=(--workdir=runs/digits)
for flag in ${FLAGS[@]+"${FLAGS[@]}"}; do
  case "$flag" in --workdir | --workdir=*) WORKDIR=() ;; esac
done

exec "$PYTHON" -m noisy_student_jax run --config=configs/digits.py \
  ${WORKDIR[@]+"${WORKDIR[@]}"} ${FLAGS[@]+"${FLAGS[@]}"}

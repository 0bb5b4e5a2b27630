#!/usr/bin/env bash
# Lints, checks types and runs the test suite; further flags go to pytest.
#
#   bash launch/test.sh
#   bash launch/test.sh tests/data/order/test_shuffle.py -k order
set -euo pipefail
FLAGS=("$@")
source "$(dirname "$0")/environment.sh" "[dev]"

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
# Two tests run at a time; those of a file stay together, since they share slow fixtures.
exec "$PYTHON" -m pytest -n 2 --dist loadfile ${FLAGS[@]+"${FLAGS[@]}"}

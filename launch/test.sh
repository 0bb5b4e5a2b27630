#!/usr/bin/env bash
# Lints, checks types and runs the test suite; further flags go to pytest.
#
#   bash launch/test.sh
#   bash launch/test.sh tests/test_order.py -k permutation
set -euo pipefail
FLAGS=("$@")
source "$(dirname "$0")/environment.sh" "[dev]"

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
# Two at a time; the tests of a file stay together, since they share what is slow to make.
exec "$PYTHON" -m pytest -n 2 --dist loadfile ${FLAGS[@]+"${FLAGS[@]}"}

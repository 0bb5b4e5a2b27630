#!/usr/bin/env bash
# The paper's L2 recipe, with small models and images; further flags are passed on.
#
#   bash launch/miniature.sh
#   bash launch/miniature.sh --config.seed=1 --workdir=runs/miniature_1
set -euo pipefail
FLAGS=("$@")
source "$(dirname "$0")/environment.sh" "[streaming]"

exec "$PYTHON" launch/miniature.py ${FLAGS[@]+"${FLAGS[@]}"}

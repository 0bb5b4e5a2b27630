#!/usr/bin/env bash
# The whole loop on your own images; further flags are passed on.
#
#   bash launch/own_images.sh LABELED UNLABELED
#   bash launch/own_images.sh LABELED UNLABELED --config.test=DIR --config.budget_hours=2
#
# LABELED has one sub-folder per class (or is a CSV file with columns path and label);
# UNLABELED is any tree of images.
set -euo pipefail
if [ "$#" -lt 2 ] || [[ "$1" == --* ]] || [[ "$2" == --* ]]; then
  echo "usage: bash launch/own_images.sh LABELED UNLABELED [flags]" >&2
  exit 2
fi
# Paths are relative to the directory where the command is run.
place() { if [ -e "$1" ]; then realpath -- "$1"; else echo "$1"; fi; }
LABELED="$(place "$1")"
UNLABELED="$(place "$2")"
FLAGS=()
for flag in "${@:3}"; do
  case "$flag" in
    --config.init=pretrained | --config.init=teacher | --config.init=random | \
      --config.*=none) ;; # words, not paths
    --config.test=* | --config.validation=* | --config.data.cache=* | \
      --config.init=* | --config.teacher=*)
      flag="${flag%%=*}=$(place "${flag#*=}")" ;;
  esac
  FLAGS+=("$flag")
done
source "$(dirname "$0")/environment.sh" "[heic,pretrained]"

WORKDIR=(--workdir=runs/own_images)
for flag in ${FLAGS[@]+"${FLAGS[@]}"}; do
  case "$flag" in --workdir | --workdir=*) WORKDIR=() ;; esac
done

exec "$PYTHON" -m noisy_student_jax run --config=configs/folder.py \
  "--config.labeled=$LABELED" "--config.unlabeled=$UNLABELED" \
  ${WORKDIR[@]+"${WORKDIR[@]}"} ${FLAGS[@]+"${FLAGS[@]}"}

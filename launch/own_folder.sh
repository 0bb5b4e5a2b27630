# The whole loop on folders of one's own; own_images.sh and own_boxes.sh source this
# one, with CONFIG and NAME set.
set -euo pipefail
if [ "$#" -lt 2 ] || [[ "$1" == --* ]] || [[ "$2" == --* ]]; then
  echo "usage: bash launch/$NAME.sh LABELED UNLABELED [flags]" >&2
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
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" "[heic,pretrained]"

WORKDIR=("--workdir=runs/$NAME")
for flag in ${FLAGS[@]+"${FLAGS[@]}"}; do
  case "$flag" in --workdir | --workdir=*) WORKDIR=() ;; esac
done

exec "$PYTHON" -m noisy_student_jax run "--config=configs/$CONFIG.py" \
  "--config.labeled=$LABELED" "--config.unlabeled=$UNLABELED" \
  ${WORKDIR[@]+"${WORKDIR[@]}"} ${FLAGS[@]+"${FLAGS[@]}"}

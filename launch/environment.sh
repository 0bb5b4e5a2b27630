# Makes or reuses .venv and installs into it; the other scripts source this one.
#
# usage: source launch/environment.sh EXTRAS   (for example "" or "[dev]")
# $PYTHON is then the interpreter.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
EXTRAS="${1:-}"
PYTHON=.venv/bin/python

find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c \
      'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python 3.11 or newer is needed; on Debian or Ubuntu:" \
    "apt-get install python3 python3-venv" >&2
  exit 1
}

if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
  BASE="$(find_python)" || exit 1
  rm -rf .venv
  if ! "$BASE" -m venv .venv; then
    rm -rf .venv
    echo "error: $BASE cannot make a virtual environment; on Debian or Ubuntu:" \
      "apt-get install python3-venv" >&2
    exit 1
  fi
fi

# .venv/installed has a line for each installed set of extras, with a digest of its
# sources; the tests' extras include those of the other scripts.
SOURCES="$(cat setup.py constraints.txt pyproject.toml | sha256sum | cut -d' ' -f1)"
installed() { grep -qxF "$SOURCES $1" .venv/installed 2>/dev/null; }
if ! installed "$EXTRAS" && ! installed "[dev]"; then
  echo "installing into .venv (once; some minutes) …"
  "$PYTHON" -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt --editable ".$EXTRAS"
  grep -F "$SOURCES" .venv/installed >.venv/installed.new 2>/dev/null || true
  echo "$SOURCES $EXTRAS" >>.venv/installed.new
  mv .venv/installed.new .venv/installed
fi

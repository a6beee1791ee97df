#!/bin/sh
# tools/install.sh VENV LOCK PYTHON [chosen]: what `make setup` runs.
#
# A finished environment keeps a copy of the lock it was installed from, so a
# second call compares two files and is done. One whose installation was
# interrupted (.installing is there) is built from scratch. `chosen` says that
# the user named PYTHON, so an environment of another version is a mistake;
# $NAMED_BY is the variable of make to name it with.
set -eu
venv=$1 lock=$2 python=$3 chosen=${4:-} name=${NAMED_BY:-PYTHON}

fail() {
  echo "make: $*" >&2
  exit 1
}

version() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

have_uv() {
  command -v uv >/dev/null 2>&1
}

found() {
  version "$python" || fail "$python does not run: name a Python" \
    "(3.11 or newer) with $name=..."
}

create() {
  found=$(found)
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is Python $found, but 3.11 or newer is needed:" \
      "name one with $name=..."
  have_uv || "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python has no venv module: install python$found-venv, or uv"
  rm -rf "$venv"
  mkdir "$venv"
  touch "$venv/.installing"
  if have_uv; then
    uv venv --quiet --seed --allow-existing --no-project \
      --no-python-downloads --python "$("$python" -c \
        'import sys; print(sys.executable)')" "$venv"
  else
    "$python" -m venv "$venv"
  fi
}

sync() {
  echo "make: installing $lock into $venv (once; a few minutes at most)" >&2
  touch "$venv/.installing"
  rm -f "$venv/.installed"
  if have_uv; then
    uv pip sync --quiet --require-hashes --python "$venv/bin/python" "$lock"
  else
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 ||
      "$venv/bin/python" -m ensurepip >/dev/null
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --require-hashes --requirement "$lock"
  fi
  cp "$lock" "$venv/.installed"
  rm "$venv/.installing"
}

if [ -e "$venv/.installing" ] || ! present=$(version "$venv/bin/python"); then
  create
elif [ -n "$chosen" ]; then
  found=$(found)
  [ "$found" = "$present" ] || fail "$venv has Python $present, $python is" \
    "Python $found: make clean removes the old one"
fi
cmp -s "$lock" "$venv/.installed" || sync

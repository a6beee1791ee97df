#!/bin/sh
# tools/newest.sh: prints the Python that `make test-newest` runs on, the
# newest one that the lock is tested with, or says in a line why there is none.
#
# A name on the PATH is tried by running it: a shim of pyenv lies there for each
# version installed, and refuses those that are not chosen. So uv and pyenv are
# asked next. An environment that is there already names its own Python.
set -eu
venv=.venv-newest

# The program behind $1, if that is Python 3.$2 and can make an environment.
real() {
  "$1" -c 'import ensurepip, os, sys, venv
name = "python%d.%d" % sys.version_info[:2]
if name != "python3." + sys.argv[1]:
  sys.exit(1)
print(os.path.join(sys.base_prefix, "bin", name))' "$2" 2>/dev/null
}

installed() {
  command -v "python3.$1"
  uv python find --no-python-downloads --no-project "3.$1" 2>/dev/null
  pyenv versions --bare 2>/dev/null | grep "^3\.$1\.[0-9]*$" |
    sort -t . -k 3nr | while read -r version; do
    echo "$(pyenv prefix "$version")/bin/python"
  done
}

for minor in 13 14; do
  { echo "$venv/bin/python"; installed $minor || true; } | while read -r path
  do
    real "$path" $minor && break
  done | grep . && exit
done
echo "make: THE NEWEST TESTS WERE NOT RUN: no Python 3.13 or 3.14 on the" \
  "PATH or from uv or pyenv; name one with NEWEST_PYTHON=..." >&2
exit 1

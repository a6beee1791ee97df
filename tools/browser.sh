#!/bin/sh
# tools/browser.sh: prints where a Chromium is, which it installs where it can.
#
# Where none can be had it says why on stderr, prints nothing and is no failure:
# the tests of the page are then skipped with that reason.
set -eu

find_one() {
  for name in chromium chromium-browser google-chrome; do
    command -v "$name" && exit 0
  done
  return 0
}

find_one
if ! command -v apt-get >/dev/null 2>&1; then
  echo 'no Chromium: not on the PATH, and no apt-get to install it' >&2
elif [ "$(id -u)" != 0 ]; then
  echo 'no Chromium: not on the PATH, and only root may install it' >&2
else
  # A font with Chinese signs comes with it, or they would be empty boxes.
  log=$(mktemp)
  if { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install \
    -y -qq --no-install-recommends chromium fonts-wqy-zenhei; } >"$log" 2>&1
  then
    find_one
  else
    echo "no Chromium: apt-get could not install it: $(tail -1 "$log")" >&2
  fi
  rm -f "$log"
fi

#!/bin/sh
# Runs a Python program, given as the first word, with whichever Python 3 this machine has; a site needs one anyway.
# Isolated and without site-packages: what is installed here must not change what it does.
set -eu
for python in python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$python" >/dev/null 2>&1; then exec "$python" -IS -c "$@"; fi
done
echo "there is no python3 on this machine" >&2
exit 127

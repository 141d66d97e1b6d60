#!/bin/sh
# Ends the container in which a site runs, if there is one: when what started it was killed, it lives on.
set -eu

venv="$(cd "$(dirname "$0")/.." && pwd -P)"
engine="$(cat "$venv/engine")"
name="$(cat "$venv/name")"
HOME="$(cat "$venv/home")"
export HOME

is_there() {
    "$engine" container inspect "$name" >/dev/null 2>&1
}

if ! is_there; then exit 0; fi
"$engine" kill --signal KILL "$name" >/dev/null 2>&1 || true
# It goes by itself at its end, so that it may be gone by now.
if ! said="$("$engine" rm --force "$name" 2>&1)" && is_there; then
    echo "the container $name could not be removed: $said" >&2
    exit 1
fi

#!/bin/sh
# Ends the container in which a site runs, if there is one: when what started it was killed, it lives on.
set -eu

venv="$(cd "$(dirname "$0")/.." && pwd -P)"
# An environment that is being made or removed has none: bootstrap.sh puts this script there last and takes it first.
for fact in engine name home; do
    if [ ! -s "$venv/$fact" ]; then exit 0; fi
done
engine="$(cat "$venv/engine")"
name="$(cat "$venv/name")"
HOME="$(cat "$venv/home")"
export HOME

give_up() {
    echo "the container $name may still run: $1" >&2
    exit 1
}

ask() {
    timeout 30 "$engine" "$@" 2>&1 </dev/null
}

# By a list and not by a question for one: an engine that cannot look answers that as if there were none.
is_there() {
    if ! listed="$(ask ps --all --format '{{.Names}}')"; then
        give_up "$engine does not say which there are: $(printf '%s' "$listed" | tail -n 1)"
    fi
    printf '%s\n' "$listed" | grep -qxF -- "$name"
}

if [ ! -x "$engine" ]; then
    # Removed from the machine, and what it has started may have been left: that has the name on its command line.
    set -- /proc/[0-9]*/cmdline
    if printf '%s\n' "$name" | grep -qsF --file=- "$@"; then give_up "$engine, which started it, is gone"; fi
    exit 0
fi
# It goes by itself at its end, so that the engine may be removing it by now, and refuse to do it twice.
deadline=$(($(date +%s) + 60))
while is_there; do
    ask kill --signal KILL "$name" >/dev/null || true
    pause=0
    if ! said="$(ask rm --force "$name")"; then pause=0.2; fi
    if [ "$(date +%s)" -ge "$deadline" ]; then give_up "it could not be removed: $said"; fi
    sleep "$pause"
done

#!/usr/bin/env bash
# Asks what start.sh started to stop, and waits until it has.
#   stop_fl.sh [--yes]    --yes: do not ask first
set -eu

kit="$(dirname "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)")"
workspace="${CLOUDDEPLOY_WORKSPACE:-${NVFL_WORKSPACE:-$kit}}"
wait_s=30 # sub_start.sh kills after 20

case "${1:-}" in
    "" | --yes | -y) ;;
    *)
        echo "stop_fl.sh: unknown option $1; the only one is --yes" >&2
        exit 4
        ;;
esac

# The supervisor has the lock of the first file, its process that of the second.
is_running() {
    local file
    for file in "$workspace/daemon_pid.fl" "$workspace/pid.fl"; do
        if [ -e "$file" ] && ! flock --shared --nonblock "$file" true; then return 0; fi
    done
    return 1
}

if ! is_running; then
    echo "Nothing runs in $workspace."
    exit 0
fi
if [ -z "${1:-}" ] && [ -t 0 ]; then
    echo "Running jobs wait for this @kind@ to come back. An admin's shutdown command ends them, from afar too."
    read -r -p "Stop it? (y/N) " answer
    case "$answer" in
        y | Y) ;;
        *)
            echo "Not stopped."
            exit 0
            ;;
    esac
fi
touch "$workspace/shutdown.fl"
echo "Shutdown request created. The @kind@ stops within a few seconds."
for _ in $(seq $((wait_s * 10))); do
    if ! is_running; then
        rm -f "$workspace/shutdown.fl" # a supervisor that was killed does not
        echo "Stopped."
        exit 0
    fi
    sleep 0.1
done
echo "stop_fl.sh: the @kind@ did not stop within $wait_s s; see log.txt in $workspace" >&2
exit 3

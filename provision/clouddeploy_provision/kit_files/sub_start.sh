#!/usr/bin/env bash
# Keeps one process of this participant alive. Started by start.sh, which verifies the kit first.
#   shutdown.fl in the workspace: stop.  restart.fl: stop and start again.
set -eu

startup="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
kit="$(dirname "$startup")"
workspace="${CLOUDDEPLOY_WORKSPACE:-${NVFL_WORKSPACE:-$kit}}"
python="${CLOUDDEPLOY_PYTHON:-python3}"
tick="${CLOUDDEPLOY_TICK_S:-0.5}"
pid_file="$workspace/daemon_pid.fl"
child=""
starts=()

mkdir -p "$workspace"
# The lock ends with this process, however it ends, so a stale pid file never keeps a participant from starting.
exec 9>>"$pid_file"
if ! flock --nonblock 9; then
    echo "There seems to be one instance, pid=$(cat "$pid_file"), running."
    exit 1
fi
echo "$$" >"$pid_file"
rm -f "$workspace/shutdown.fl" "$workspace/restart.fl"

# TERM, then KILL after 10 s.
stop_child() {
    if [ -z "$child" ]; then return; fi
    kill -TERM "$child" 2>/dev/null || true
    for _ in $(seq 100); do
        if ! kill -0 "$child" 2>/dev/null; then break; fi
        sleep 0.1
    done
    kill -KILL "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
    child=""
}

leave() {
    stop_child
    rm -f "$pid_file" "$workspace/shutdown.fl"
    exit "$1"
}
trap 'leave 0' TERM INT HUP

# Five starts within 300 s are a sign that another start will not help.
start_child() {
    local now recent=() at
    now="$(date +%s)"
    for at in "${starts[@]}"; do
        if [ $((now - at)) -lt 300 ]; then recent+=("$at"); fi
    done
    starts=("${recent[@]}")
    if [ "${#starts[@]}" -ge 5 ]; then
        echo "System is in trouble and unable to start the task!!!!!"
        leave 1
    fi
    starts+=("$now")
    "$python" -P -m clouddeploy_runtime @kind@ "$kit" --workspace "$workspace" 9>&- &
    child="$!"
}

start_child
while true; do
    if [ -e "$workspace/shutdown.fl" ]; then
        echo "Shutting down: shutdown.fl was found"
        leave 0
    fi
    if [ -e "$workspace/restart.fl" ]; then
        echo "Restarting: restart.fl was found"
        rm -f "$workspace/restart.fl"
        stop_child
        starts=()
        start_child
    fi
    if ! kill -0 "$child" 2>/dev/null; then
        status=0
        wait "$child" || status=$?
        child=""
        if [ -e "$workspace/shutdown.fl" ]; then continue; fi
        if [ -e "$workspace/restart.fl" ]; then continue; fi
        # Status 0 is the answer to being asked: by shutdown.fl, which the child takes away, or by an admin.
        if [ "$status" -eq 0 ]; then leave 0; fi
        echo "The @kind@ ended with status $status; starting it again"
        sleep "$tick"
        start_child
    fi
    sleep "$tick"
done

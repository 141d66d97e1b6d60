#!/usr/bin/env bash
# Keeps one process of this participant alive. Started by start.sh, which verifies the kit first.
#   sub_start.sh             supervise
#   sub_start.sh --verify    verify the kit, then supervise
#   sub_start.sh --once      run one process in front, as start.sh --once does
# Files in the workspace:
#   shutdown.fl: stop.  restart.fl: stop and start again.  daemon_pid.fl, pid.fl: the numbers of this and its process.
# Where the process is not trusted with its supervisor's files, they are in the folder CLOUDDEPLOY_SUPERVISOR instead.
# Its own exit status: 0 after it was asked to stop, 1 when another one runs or too many starts failed, and what its
# process said of itself when another start would not help (4: a file or a value is wrong).
set -eu

startup="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
kit="$(dirname "$startup")"
python="${CLOUDDEPLOY_PYTHON:-python3}"
tick="${CLOUDDEPLOY_TICK_S:-0.5}"
child=""
starts=()  # when, since this script began
pause=0    # ticks until the next start
grace=200  # tenths of a second from TERM to KILL: its jobs get 10 s, its connections 2 s
again=75   # the exit status of a process that wants to be started again: lifecycle.py

case "${1:-}" in
    "") ;;
    --verify) "$python" -P -m clouddeploy_runtime verify "$kit" ;;
    --once) exec "$startup/start.sh" --once ;;
    *)
        echo "sub_start.sh: unknown option $1; there are --verify and --once" >&2
        exit 4
        ;;
esac

workspace="${CLOUDDEPLOY_WORKSPACE:-${NVFL_WORKSPACE:-$kit}}"
mkdir -p "$workspace"
workspace="$(cd "$workspace" && pwd -P)"
if [ "$workspace" = / ]; then
    echo "sub_start.sh: the workspace must not be /; name a folder in NVFL_WORKSPACE" >&2
    exit 4
fi
own="${CLOUDDEPLOY_SUPERVISOR:-$workspace}"
mkdir -p "$own"
pid_file="$own/daemon_pid.fl"
child_file="$own/pid.fl"

# On a disk that is full a word is lost, and nothing else.
say() {
    echo "$@" || true
}

note() {
    echo "$2" >"$1" || true
}

# Tells whether a process has the lock of a file. For the moment of the question it is ours, so those who want it wait.
is_locked() {
    [ -e "$1" ] && ! flock --shared --nonblock "$1" true
}

refuse() {
    say "There seems to be one instance, pid=$(head -n 1 "$1"), running."
    exit 1
}

# TERM, then KILL.
stop_child() {
    if [ -n "$child" ]; then
        kill -TERM "$child" 2>/dev/null || true
        for _ in $(seq "$grace"); do
            if ! kill -0 "$child" 2>/dev/null; then break; fi
            sleep 0.1
        done
        kill -KILL "$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    fi
    forget_child
}

# Job processes end with the process that started them; what a job's own code has started may not. It has the variable
# of jobs, and was started in this workspace.
forget_child() {
    local environment
    child=""
    grep -lsz '^CLOUDDEPLOY_JOB_FOLDER=' /proc/[0-9]*/environ | while read -r environment; do
        environment="${environment#/proc/}"
        case "$(readlink "/proc/${environment%/environ}/cwd")" in
            "$workspace"/*) kill -KILL "${environment%/environ}" 2>/dev/null || true ;;
        esac
    done
    rm -f "$child_file"
}

leave() {
    trap '' TERM INT HUP
    stop_child
    rm -rf "$pid_file" "$workspace/shutdown.fl" "$workspace/restart.fl"
    exit "$1"
}

start_child() {
    starts+=("$SECONDS")
    say "start fl because of no pid.fl"
    "$python" -P -m clouddeploy_runtime @kind@ "$kit" --workspace "$workspace" 9>&- &
    child="$!"
    note "$child_file" "$child"
    say "new pid $child"
}

# Five starts within 300 s are a sign that another one will not help. The pauses between them grow, 85 s together, so
# that what passes by itself, like a full disk, has time to.
plan_start() {
    local recent=() at
    for at in ${starts[@]+"${starts[@]}"}; do
        if [ $((SECONDS - at)) -lt 300 ]; then recent+=("$at"); fi
    done
    starts=(${recent[@]+"${recent[@]}"})
    if [ "${#starts[@]}" -ge 5 ]; then
        say "System is in trouble and unable to start the task!!!!!"
        leave 1
    fi
    pause=$((2 * 4 ** (${#starts[@]} - 1)))
}

# What the process ended with decides what comes next.
child_ended() {
    local status=0
    wait "$child" || status=$?
    forget_child
    if [ -e "$workspace/shutdown.fl" ] || [ -e "$workspace/restart.fl" ]; then return; fi
    case "$status" in
        # The answer to being asked: by shutdown.fl, which the process takes away, or by an admin.
        0) leave 0 ;;
        "$again")
            say "About to restart."
            starts=()
            ;;
        # A wrong file or value, or no interpreter: nothing that another start would change.
        4 | 126 | 127)
            say "The @kind@ ended with status $status and is not started again: somebody has to correct what it says"
            leave "$status"
            ;;
        *)
            plan_start
            say "The @kind@ ended with status $status; starting it again"
            ;;
    esac
}

# The lock ends with this process, however it ends, so a stale pid file never keeps a participant from starting. Who had
# it before may have taken the file away after we opened it: then the lock is one of nothing.
while true; do
    exec 9>>"$pid_file"
    if ! flock --wait 1 9; then refuse "$pid_file"; fi
    if [ "$pid_file" -ef /proc/self/fd/9 ]; then break; fi
done
if is_locked "$child_file"; then
    # One that a supervisor started which was killed is taken over, one that somebody started by hand is not.
    child="$(cat "$child_file")"
    case "$child" in
        "" | [01] | -* | *[!0-9]*) # by hand, or nothing that could be ended
            rm -f "$pid_file"
            refuse "$child_file"
            ;;
    esac
    say "Ending pid $child, which an instance that was killed has left"
    stop_child
fi
trap 'leave 0' TERM INT HUP # before anybody can read the number
note "$pid_file" "$$"
rm -rf "$workspace/shutdown.fl" "$workspace/restart.fl"
export CLOUDDEPLOY_SUPERVISED=1
say "WORKSPACE set to $workspace"

start_child
while true; do
    if [ ! -s "$pid_file" ]; then note "$pid_file" "$$"; fi
    if [ -e "$workspace/shutdown.fl" ]; then
        say "About to shutdown."
        stop_child
        say "Gracefully shutdown."
        leave 0
    fi
    if [ -e "$workspace/restart.fl" ]; then
        say "About to restart."
        rm -rf "$workspace/restart.fl"
        stop_child
        starts=()
        pause=0
    fi
    if [ -n "$child" ]; then
        if ! kill -0 "$child" 2>/dev/null; then child_ended; fi
    elif [ "$pause" -gt 0 ]; then
        pause=$((pause - 1))
    else
        start_child
    fi
    sleep "$tick"
done

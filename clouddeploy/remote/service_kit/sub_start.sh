#!/usr/bin/env bash
# Keeps a service alive: runs the words of startup/command in the folder service/, with the variables of
# startup/environment; both have a NUL after each. It serves while it listens on the port of startup/port.
# While this script lives it holds a lock on daemon_pid.fl in the workspace, and status.json there says how the service is.
# On a disk that is full its words, and what it notes, are lost until there is room; the service runs on.
set -eu

startup="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
folder="$(dirname "$startup")/service"
workspace="$CLOUDDEPLOY_WORKSPACE"
tick="${CLOUDDEPLOY_TICK_S:-0.5}"
pid_file="$workspace/daemon_pid.fl"
child_file="$workspace/service.pid"
log="$workspace/log.txt"
max_log_bytes="${CLOUDDEPLOY_LOG_BYTES:-16777216}"
child=""
why=""    # it does not serve
said=""   # what status.json has
socket="" # the inode of the one on which it listens
starts=()

exec 9>>"$pid_file"
# Not at once: what a killed one was just waiting in has its lock for a moment longer.
if ! flock --timeout 2 9; then
    echo "There seems to be one instance, pid=$(cat "$pid_file"), running."
    exit 1
fi

tell() {
    echo "$1" || true
}

note() {
    echo "$2" >"$1" || true
}

note "$pid_file" "$$"

mapfile -d '' -t words <"$startup/command"
mapfile -d '' -t variables <"$startup/environment"
read -r port <"$startup/port"
hex="$(printf '%04X' "$port")"
if [ "${words[0]}" = python ]; then words[0]="$CLOUDDEPLOY_PYTHON"; fi

# Ends a service with all that it has started: TERM, then KILL after 10 s.
end() {
    # In the moment before it has a session, it is one process alone.
    kill -TERM -- "-$1" 2>/dev/null || kill -TERM "$1" 2>/dev/null || return 0
    for _ in $(seq 100); do
        if ! kill -0 -- "-$1" 2>/dev/null && ! kill -0 "$1" 2>/dev/null; then return 0; fi
        sleep 0.1
    done
    kill -KILL -- "-$1" 2>/dev/null || true
}

# When a process began, in ticks since boot (proc(5), field 22 of stat): with its number that is one process for good.
born() {
    local stat=()
    read -r -a stat < <(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) || true
    echo "${stat[19]:-}"
}

# Where this one was killed before, without a word to what it had started, that runs on and has the port.
if [ -s "$child_file" ]; then
    read -r old moment <"$child_file"
    if [ -n "$moment" ] && [ "$(born "$old")" = "$moment" ]; then end "$old"; fi
fi

descendants() {
    local one found=()
    read -r -a found < <(cat "/proc/$1/task/"*/children 2>/dev/null | tr '\n' ' ') || true
    for one in "${found[@]}"; do
        echo "$one"
        descendants "$one"
    done
}

# Whether a socket is the service's: another process may have the port, so that the service does not get it.
is_ours() {
    local one family=()
    mapfile -t family < <(descendants "$child")
    for one in "$child" "${family[@]}"; do
        if find "/proc/$one/fd" -lname "socket:\[$1\]" 2>/dev/null | grep -q .; then return 0; fi
    done
    return 1
}

# Not by connecting to it, which would fill its log.
serves() {
    local table place state inode
    for table in /proc/net/tcp /proc/net/tcp6; do
        if [ ! -r "$table" ]; then continue; fi
        while read -r _ place _ state _ _ _ _ _ inode _; do
            case "$state" in
                st) continue ;;
                0A) ;;
                *) break ;; # sockets that listen (0A) come before all others
            esac
            if [ "${place##*:}" = "$hex" ] && { [ "$inode" = "$socket" ] || is_ours "$inode"; }; then
                socket="$inode"
                return 0
            fi
        done <"$table"
    done
    return 1
}

say() {
    if [ "$said" = "$1 $2 $child" ]; then return; fi
    if printf '{"state": "%s", "since": "%s", "pid": %s, "detail": "%s"}\n' \
        "$1" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "${child:-null}" "$2" 2>/dev/null >"$workspace/status.json.new" &&
        mv -fT "$workspace/status.json.new" "$workspace/status.json" 2>/dev/null; then
        said="$1 $2 $child"
    fi
}

leave() {
    trap - EXIT
    trap '' TERM INT HUP
    if [ -n "$child" ]; then
        end "$child"
        wait "$child" 2>/dev/null || true
        child=""
    fi
    say stopped "$2"
    rm -f "$pid_file" "$child_file" || true
    exit "$1"
}
trap 'leave 0 ""' TERM INT HUP
trap 'leave "$?" "its supervisor failed"' EXIT # whatever it has not thought of, it leaves nothing behind

# The service goes on writing to the same file, at its end; a line that comes between the two commands is lost. Without
# the file, since somebody took it away, what it says is lost until its next start.
rotate() {
    if [ "$(stat -c %s "$log" 2>/dev/null || echo 0)" -gt "$max_log_bytes" ]; then
        cp "$log" "$log.1" || true
        : >"$log" || true
    fi
}

# Five starts within 300 s are a sign that another start will not help.
start_child() {
    local now recent=() at out
    now="$(date +%s)"
    for at in "${starts[@]}"; do
        if [ $((now - at)) -lt 300 ]; then recent+=("$at"); fi
    done
    starts=("${recent[@]}")
    if [ "${#starts[@]}" -ge 5 ]; then
        tell "The service was started five times within 300 s and is given up"
        leave 1 "it was started five times within 300 s, and $why"
    fi
    starts+=("$now")
    socket=""
    out="$log"
    if ! (: >>"$log") 2>/dev/null; then out=/dev/null; fi
    # Nothing here is looked at by a shell again: env takes what has a name before =, then the words as they are.
    (
        cd "$folder"
        PATH="$(dirname "$CLOUDDEPLOY_PYTHON"):$PATH"
        PYTHONUNBUFFERED=1 # what it says is in the log when it says it
        export PATH PYTHONUNBUFFERED
        exec setsid env -- "${variables[@]}" "${words[@]}" 9>&-
    ) </dev/null >>"$out" 2>&1 &
    child="$!"
    note "$child_file" "$child $(born "$child")"
    say starting "$why"
}

start_child
while true; do
    if ! kill -0 "$child" 2>/dev/null; then
        status=0
        wait "$child" || status=$?
        if kill -0 -- "-$child" 2>/dev/null; then end "$child"; fi # what it has left behind may have the port
        child=""
        why="it ended with status $status"
        tell "The service ended with status $status; starting it again"
        sleep "$tick"
        start_child
    elif serves; then
        why=""
        say serving ""
    else
        say starting "${why:-it does not listen on port $port}"
    fi
    rotate
    sleep "$tick"
done

#!/usr/bin/env bash
# Runs the kit's own sub_start.sh, with our Python environment first on PATH, and stays as long as that does.
# While it lives it holds a lock on daemon_pid.fl in the workspace, and status.json there says how the site is.
# Where a container can write to the workspace, what runs out here and the numbers of processes are in the folder
# CLOUDDEPLOY_SUPERVISOR, and in the container the place of NVFLARE's own there is another folder: container.sh.
set -eu

startup="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
kit="$(dirname "$startup")/nvflare"
workspace="$CLOUDDEPLOY_WORKSPACE"
own="${CLOUDDEPLOY_SUPERVISOR:-$workspace}"
home="$own/nvflare"
near=nvflare # from the workspace, where NVFLARE writes
if [ "$own" != "$workspace" ]; then near=../container/nvflare; fi
kept="$workspace/$near"
tick="${CLOUDDEPLOY_TICK_S:-0.5}"
mkdir -p "$own" "$kept"
pid_file="$own/daemon_pid.fl"
child_file="$own/nvflare.pid"
state=""
child=""

exec 9>>"$pid_file"
# Not at once: what a killed one was just waiting in has its lock for a moment longer.
if ! flock --timeout 2 9; then
    echo "There seems to be one instance, pid=$(cat "$pid_file"), running."
    exit 1
fi
echo "$$" >"$pid_file"

descendants() {
    local one found=()
    read -r -a found < <(cat "/proc/$1/task/"*/children 2>/dev/null | tr '\n' ' ') || true
    for one in "${found[@]}"; do
        echo "$one"
        descendants "$one"
    done
}

any_alive() {
    local one
    for one in "$@"; do
        if kill -0 "$one" 2>/dev/null; then return 0; fi
    done
    return 1
}

# Ends the reference's supervisor first, so that it starts nothing again; then TERM to the rest, and KILL after 10 s.
end() {
    local family=()
    kill -STOP "$1" 2>/dev/null || true
    mapfile -t family < <(descendants "$1")
    kill -KILL "$1" 2>/dev/null || true
    if [ "${#family[@]}" -eq 0 ]; then return; fi
    kill -TERM "${family[@]}" 2>/dev/null || true
    for _ in $(seq 100); do
        if ! any_alive "${family[@]}"; then break; fi
        sleep 0.1
    done
    kill -KILL "${family[@]}" 2>/dev/null || true
}

# When a process began, in ticks since boot (proc(5), field 22 of stat): with its number that is one process for good.
born() {
    local stat=()
    read -r -a stat < <(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) || true
    echo "${stat[19]:-}"
}

# Where this one was killed before, without a word to what it had started, that runs on and would be a second site.
if [ -s "$child_file" ]; then
    read -r old moment <"$child_file"
    if [ -n "$moment" ] && [ "$(born "$old")" = "$moment" ]; then end "$old"; fi
fi

# The reference writes beside its kit, so it gets a copy. What it keeps there stays; the kit's own files are as in the kit.
mkdir -p "$home/local"
rm -rf "$home/startup"
cp -a "$kit/startup" "$home/startup"
if [ -d "$kit/local" ]; then cp -a "$kit/local/." "$home/local/"; fi
# Of an earlier run, ended by the lock's loss: its numbers may be other processes' by now, its log is no news.
rm -f "$home/daemon_pid.fl" "$home/pid.fl" "$home/shutdown.fl" "$home/restart.fl"
seen="$(stat -c %s "$kept/log.txt" 2>/dev/null || echo 0)"
ln -sfnT "$near/log.txt" "$workspace/log.txt" || true

say() {
    if [ "$state" = "$1" ]; then return; fi
    state="$1"
    printf '{"state": "%s", "since": "%s", "detail": "%s"}\n' "$1" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$2" \
        >"$own/status.json.new"
    mv -fT "$own/status.json.new" "$workspace/status.json" || true
}

# What the log says since this start, oldest first: the last word counts.
look() {
    local size last
    size="$(stat -c %s "$kept/log.txt" 2>/dev/null || echo 0)"
    if [ "$size" -lt "$seen" ]; then seen=0; fi # it was rotated
    if [ ! -f "$kept/log.txt" ]; then return; fi
    last="$(tail -c "+$((seen + 1))" "$kept/log.txt" 2>/dev/null |
        grep -oE 'Successfully registered client|Server started|re-challenge after|Could not connect to server' |
        tail -n 1 || true)"
    case "$last" in
        Successfully*) say registered "" ;;
        Server*) say serving "" ;;
        re-challenge* | Could*) say connecting "the server does not answer, says NVFLARE" ;;
    esac
}

leave() {
    trap '' TERM INT HUP
    if [ -n "$child" ]; then
        end "$child"
        wait "$child" 2>/dev/null || true
    fi
    say stopped "$2"
    rm -f "$pid_file" "$child_file" "$home/daemon_pid.fl" "$home/pid.fl"
    exit "$1"
}
trap 'leave 0 ""' TERM INT HUP

say starting ""
# NVFL_WORKSPACE would make newer kits copy themselves once more.
(
    cd "$home"
    unset NVFL_WORKSPACE
    PATH="$(dirname "$CLOUDDEPLOY_PYTHON"):$PATH"
    export PATH
    exec setsid bash "$home/startup/sub_start.sh" 9>&-
) &
child="$!"
echo "$child $(born "$child")" >"$child_file"
while kill -0 "$child" 2>/dev/null; do
    look
    sleep "$tick"
done
status=0
wait "$child" || status=$?
child=""
# 0 is also what it answers when it gives up after five starts; systemd then starts it again, an admin's shutdown too.
leave "$status" "NVFLARE ended with status $status"

#!/usr/bin/env bash
# Starts this participant.
#   start.sh                              verify the kit, start it in the background, return
#   start.sh --foreground                 the same, but stay in front and supervise (for systemd)
#   start.sh --once                       run one process in front, without restarting it
#   start.sh --cloud azure|aws [--config FILE]   create a machine in a cloud and start this kit there
#     with it: --image IMAGE (a container's, or the cloud's), --vpc-id ID, --subnet-id ID, --no-input (ask nothing)
set -eu

usage() {
    sed -n '3,7s/^# *//p' "${BASH_SOURCE[0]}"
}

startup="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
kit="$(dirname "$startup")"
mode=background
cloud=""
config=""
rest=() # for clouddeploy launch, as it was said
first="" # of the options that are for --cloud alone

while [ $# -gt 0 ]; do
    case "$1" in
        --foreground) mode=foreground ;;
        --once) mode=once ;;
        --no-input)
            rest+=("$1")
            first="${first:-$1}"
            ;;
        --cloud | --config | --image | --vpc-id | --subnet-id)
            if [ $# -lt 2 ] || [ -z "$2" ]; then
                echo "start.sh: $1 needs a value" >&2
                exit 4
            fi
            case "$1" in
                --cloud) cloud="$2" ;;
                --config) config="$2" ;;
                *) rest+=("$1" "$2") ;;
            esac
            if [ "$1" != --cloud ]; then first="${first:-$1}"; fi
            shift
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        *)
            echo "start.sh: unknown option $1" >&2
            usage >&2
            exit 4
            ;;
    esac
    shift
done

if [ -n "$cloud" ]; then
    case "$cloud" in
        azure | aws) ;;
        *)
            echo "start.sh: --cloud must be azure or aws, not $cloud" >&2
            exit 4
            ;;
    esac
    if ! command -v clouddeploy >/dev/null; then
        echo "start.sh: the command clouddeploy is not installed here; install it with: pip install 'clouddeploy[$cloud]'" >&2
        exit 4
    fi
    if [ -n "$config" ]; then rest=(--config "$config" ${rest[@]+"${rest[@]}"}); fi
    exec clouddeploy launch "$kit" --cloud "$cloud" ${rest[@]+"${rest[@]}"}
fi

if [ -n "$first" ]; then
    echo "start.sh: $first is for --cloud; without it this machine is used, and needs none" >&2
    exit 4
fi

# The interpreter: the one that is named, else the environment beside the kit, else the system's.
python="${CLOUDDEPLOY_PYTHON:-}"
if [ -z "$python" ]; then
    python="$kit/../venv/bin/python"
    if [ ! -x "$python" ]; then
        python=python3
    fi
fi
export CLOUDDEPLOY_PYTHON="$python"

# Nothing starts from a kit that is not the one the project signed; the message and the exit code are verify's.
status=0
"$python" -P -m clouddeploy_runtime verify "$kit" || status=$?
if [ "$status" -ne 0 ]; then
    echo "start.sh: not started, the startup kit was refused" >&2
    exit "$status"
fi

workspace="${CLOUDDEPLOY_WORKSPACE:-${NVFL_WORKSPACE:-$kit}}"
mkdir -p "$workspace"
workspace="$(cd "$workspace" && pwd -P)"
if [ "$workspace" = / ]; then
    echo "start.sh: the workspace must not be /; name a folder in NVFL_WORKSPACE" >&2
    exit 4
fi
export CLOUDDEPLOY_WORKSPACE="$workspace"
own="${CLOUDDEPLOY_SUPERVISOR:-$workspace}"
mkdir -p "$own"

case "$mode" in
    foreground) exec "$startup/sub_start.sh" ;;
    once) exec "$python" -P -m clouddeploy_runtime @kind@ "$kit" --workspace "$workspace" ;;
esac
# Said here too: the supervisor, which would leave, says it into its log. For the moment after a kill we wait.
daemon_pid="$own/daemon_pid.fl"
if [ -e "$daemon_pid" ] && ! flock --shared --wait 1 "$daemon_pid" true; then
    echo "There seems to be one instance, pid=$(cat "$daemon_pid"), running."
    exit 1
fi
# It has what the supervisor says and what crashes print; the rest is in log.txt, which is rotated.
if [ "$(stat -c %s "$own/start.log" 2>/dev/null || echo 0)" -gt 1048576 ]; then
    mv -f "$own/start.log" "$own/start.log.1"
fi
# A session of its own and no inherited stream: an SSH channel that started us can close.
setsid "$startup/sub_start.sh" </dev/null >>"$own/start.log" 2>&1 &
echo "Starting @kind@ from $kit; messages go to $own/start.log"

#!/usr/bin/env bash
# Starts the NVFLARE kit beside this folder; see sub_start.sh.
#   start.sh               in the background
#   start.sh --foreground  in front, for systemd
set -eu

startup="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
case "${1:-}" in
    "") ;;
    --foreground) exec "$startup/sub_start.sh" ;;
    *)
        echo "start.sh: unknown option $1" >&2
        exit 4
        ;;
esac
own="${CLOUDDEPLOY_SUPERVISOR:-$CLOUDDEPLOY_WORKSPACE}"
mkdir -p "$own"
# A session of its own and no inherited stream: an SSH channel that started us can close.
setsid "$startup/sub_start.sh" </dev/null >>"$own/start.log" 2>&1 &
echo "Starting NVFLARE; messages go to $own/start.log"

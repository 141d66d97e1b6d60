#!/usr/bin/env bash
# Asks the supervisor that start.sh started to stop this participant.
set -eu

kit="$(dirname "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)")"
workspace="${CLOUDDEPLOY_WORKSPACE:-${NVFL_WORKSPACE:-$kit}}"

case "${1:-}" in
    "" | --yes | -y) ;;
    *)
        echo "stop_fl.sh: unknown option $1; the only one is --yes" >&2
        exit 4
        ;;
esac
if [ -z "${1:-}" ] && [ -t 0 ]; then
    echo "Running jobs at this @kind@ will be aborted."
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

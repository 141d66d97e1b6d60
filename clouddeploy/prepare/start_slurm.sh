#!/usr/bin/env bash
# Starts this participant on a machine that submits jobs to Slurm; its jobs run on the cluster's nodes.
#   start_slurm.sh               stay in front, as in a batch job of its own
#   start_slurm.sh --background  supervise it in the background; stop_fl.sh stops it
# This folder is its workspace, and the nodes have to see it at this very path. SLURM_CONF says where Slurm's
# configuration is, where that is not the usual place.
set -eu

startup="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
kit="$(dirname "$startup")"
umask 077 # what jobs leave here is this account's, on a file system that many share

case "${1:-}" in
    "") mode=--once ;;
    --background) mode= ;;
    -h | --help)
        sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *)
        echo "start_slurm.sh: unknown option $1; the only one is --background" >&2
        exit 4
        ;;
esac
if [ "$(stat -c %a "$kit")" != 700 ]; then
    echo "start_slurm.sh: $kit is not this account's alone; correct it with: chmod 700 '$kit'" >&2
    exit 4
fi

# The workspace is the kit's own folder. One of another name would not be the one that the launcher tells the nodes.
export NVFL_WORKSPACE="$kit"
export CLOUDDEPLOY_WORKSPACE="$kit"
if [ -n "$mode" ]; then exec "$startup/sub_start.sh" "$mode"; fi
exec "$startup/start.sh"

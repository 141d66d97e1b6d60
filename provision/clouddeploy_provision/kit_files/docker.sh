#!/usr/bin/env bash
# Runs this @kind@ in a container. DOCKER names another engine, for example podman.
#   docker.sh [-d]    -d: in the background
#   MY_DATA_DIR       folder with this site's data; it appears as /data in the container
set -eu

kit="$(dirname "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)")"
name="$(basename "$kit")"
port="@port@"
options=(--rm --init --name "clouddeploy-${name//[^A-Za-z0-9_.-]/-}" --volume "$kit:/kit")

case "${1:-}" in
    -d) options+=(--detach) ;;
    "") if [ -t 0 ]; then options+=(--interactive --tty); fi ;;
    *)
        echo "docker.sh: unknown option $1; the only one is -d" >&2
        exit 4
        ;;
esac
if [ -n "$port" ]; then options+=(--publish "$port:$port"); fi
if [ -n "${MY_DATA_DIR:-}" ]; then
    options+=(--volume "$MY_DATA_DIR:/data:ro" --env CLOUDDEPLOY_DATA_DIR=/data)
fi

exec "${DOCKER:-docker}" run "${options[@]}" @image@ /kit/startup/start.sh --once

#!/usr/bin/env bash
# Starts this participant in a container of docker or podman; its jobs get containers of their own.
#   start_docker.sh               start it in the background; one that runs is left alone
#   start_docker.sh --foreground  the same, but stay in front
#   start_docker.sh --stop        stop it, and remove its container
# Variables:
#   DOCKER                  the engine's command; default: docker, else podman
#   CLOUDDEPLOY_IMAGE       another image than the prepared one; NVFL_P_IMAGE means the same
#   NVFL_DOCKER_SOCK        the engine's socket, as the engine's own machine names it
#   NVFL_DOCKER_SOCK_GID    the group that may use it, where the engine is not on this machine
#   CLOUDDEPLOY_RESTART     when the engine starts it again; default: on-failure; unless-stopped: after a boot too
#   CLOUDDEPLOY_DOCKER_ENV  names of variables that it gets, for secret_env of local/study_runtime.yaml
set -eu

name=server1
kind=server
image=registry:5000/fl/site@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
network=nvflare-network
mount=/var/tmp/nvflare/workspace
hosts=(fl.example.com server1)
ports=(443)

usage() {
    sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

fail() {
    echo "start_docker.sh: $1" >&2
    exit "${2:-1}"
}

mode=background
while [ $# -gt 0 ]; do
    case "$1" in
        --foreground) mode=foreground ;;
        --stop) mode=stop ;;
        -h | --help)
            usage
            exit 0
            ;;
        *)
            usage >&2
            fail "unknown option $1" 4
            ;;
    esac
    shift
done

kit="$(dirname "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)")"
case "$kit" in
    *:* | *,*) fail "the folder $kit cannot be a container's: move it to a path without colons and commas" 4 ;;
esac

engine="${DOCKER:-}"
if [ -z "$engine" ]; then
    engine=docker
    if ! command -v docker >/dev/null || ! docker info >/dev/null 2>&1; then
        if command -v podman >/dev/null; then engine=podman; fi
    fi
fi
if ! command -v "$engine" >/dev/null; then
    fail "there is neither docker nor podman here; install one of them, or name it in DOCKER"
fi
# The command docker may be podman's.
case "$("$engine" --version)" in
    *podman*) is_podman=yes ;;
    *) is_podman="" ;;
esac

# Whose container has our name: ours, nobody's, or somebody's, which stays as it is.
mine=""
if found="$("$engine" container inspect --format '{{index .Config.Labels "clouddeploy.kit"}} {{.State.Status}}' "$name" 2>/dev/null)"; then
    if [ "${found% *}" != "$kit" ]; then fail "there is a container $name that is not of this kit; rename or remove it"; fi
    mine="${found##* }"
fi
if [ "$mode" = stop ]; then
    if [ -z "$mine" ]; then
        echo "$name does not run here"
        exit 0
    fi
    "$engine" stop --time 30 "$name" >/dev/null
    "$engine" rm --force "$name" >/dev/null
    echo "$name was stopped"
    exit 0
fi
if [ "$mine" = running ]; then
    echo "$name runs already; its messages are in $kit/log.txt"
    exit 0
fi
if [ -n "$mine" ]; then "$engine" rm --force "$name" >/dev/null; fi

# With its socket the site starts containers for jobs. That of an engine without root gives no more than the account has.
if [ -n "$is_podman" ]; then
    rootless="$("$engine" info --format '{{.Host.Security.Rootless}}')"
    usual="$("$engine" info --format '{{.Host.RemoteSocket.Path}}')"
else
    rootless=false
    case "$("$engine" info --format '{{.SecurityOptions}}')" in *rootless*) rootless=true ;; esac
    usual="$("$engine" context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null || echo unix:///var/run/docker.sock)"
fi
socket="${NVFL_DOCKER_SOCK:-${DOCKER_HOST:-$usual}}"
group="${NVFL_DOCKER_SOCK_GID:-}"
case "$socket" in
    unix://*) socket="${socket#unix://}" ;;
    /*) ;;
    *) fail "the engine is at $socket, and jobs need its socket: name that of its machine in NVFL_DOCKER_SOCK" 4 ;;
esac
if [ -z "$group" ]; then
    if [ ! -S "$socket" ]; then
        hint="start the engine"
        if [ -n "$is_podman" ]; then
            hint="start it: systemctl --user start podman.socket (as root: systemctl start podman.socket)"
        fi
        fail "$socket is no socket; $hint, or name another one in NVFL_DOCKER_SOCK"
    fi
    group="$(stat -L -c %g "$socket")"
fi

# Files that it writes are this account's. Without root, docker's root is the account; podman keeps the number.
user="$(id -u):$(id -g)"
options=()
if [ "$rootless" = true ] && [ -n "$is_podman" ]; then
    options+=(--userns keep-id)
elif [ "$rootless" = true ]; then
    user=0:0
elif [ "$group" != "$(id -g)" ]; then
    options+=(--group-add "$group")
fi

image="${CLOUDDEPLOY_IMAGE:-${NVFL_P_IMAGE:-$image}}"
if ! "$engine" image inspect "$image" >/dev/null 2>&1; then
    "$engine" pull "$image" >/dev/null || fail "the image $image is not here and cannot be pulled"
fi
# By its id from here on: what a tag leads to may change between now and the next job.
id="$("$engine" image inspect --format '{{.Id}}' "$image")"

if [ "$network" != host ]; then
    if ! "$engine" network inspect "$network" >/dev/null 2>&1; then
        # Two sites that start at the same time both want to make it.
        "$engine" network create "$network" >/dev/null 2>&1 || "$engine" network inspect "$network" >/dev/null
    fi
    for host in ${hosts[@]+"${hosts[@]}"}; do options+=(--network-alias "$host"); done
    for port in ${ports[@]+"${ports[@]}"}; do
        options+=(--publish "$port:$port")
        if [ "$port" -lt 1024 ]; then options+=(--sysctl net.ipv4.ip_unprivileged_port_start=0); fi
    done
fi
# By name, so that no value stands in a list of processes.
for variable in ${CLOUDDEPLOY_DOCKER_ENV:-}; do options+=(--env "$variable"); done
for variable in HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy; do
    if [ -n "${!variable:-}" ]; then options+=(--env "$variable"); fi
done
case "$mode" in
    foreground) options+=(--rm) ;;
    *) options+=(--detach --restart "${CLOUDDEPLOY_RESTART:-on-failure}") ;;
esac

# Temporary files are on the site's disk: a job's container gets at them there, and memory is for parameters.
mkdir -p "$kit/tmp"
chmod 700 "$kit" "$kit/tmp"
set -- run --name "$name" --hostname "$name" --label "clouddeploy.kit=$kit" --user "$user" --network "$network" \
    --volume "$kit:$mount" --volume "$kit/startup:$mount/startup:ro" --volume "$kit/local:$mount/local:ro" \
    --volume "$socket:/var/run/docker.sock" \
    --cap-drop ALL --security-opt no-new-privileges --security-opt label=disable --read-only --tmpfs /tmp \
    --pids-limit -1 --env HOME=/tmp --env "TMPDIR=$mount/tmp" --env CLOUDDEPLOY_SUPERVISED=1 \
    --env "CLOUDDEPLOY_DOCKER_NAME=$name" --env "CLOUDDEPLOY_DOCKER_WORKSPACE=$kit" \
    "${options[@]}" --entrypoint python3 "$id" -u -P -m clouddeploy_runtime "$kind" "$mount" --workspace "$mount"
if [ "$mode" = foreground ]; then exec "$engine" "$@"; fi
"$engine" "$@" >/dev/null
echo "Starting $kind $name in a container of $image ($id); its messages go to $kit/log.txt"

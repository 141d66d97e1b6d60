#!/bin/sh
# Is `python` in the environment of a site that runs in a container: runs the image's own python3 there, with the same
# arguments, as the calling user. Below the site's folder everything is where it is outside, and read-only but for the
# workspace. Beside it, bootstrap.sh has written what it found out: engine, image, options, root and name.
set -eu

venv="$(cd "$(dirname "$0")/.." && pwd -P)"
folder="$(dirname "$venv")"
root="$(cat "$venv/root")" # as the site's variables name it; a link on the way makes that another path
workspace="$folder/workspace"
engine="$(cat "$venv/engine")"
HOME="$(cat "$venv/home")" # where the engine keeps this account's images; a site may have been given another one
export HOME
access=ro
is_site=""
case " $* " in
*" -m clouddeploy_runtime server "* | *" -m clouddeploy_runtime client "* | \
    *" -m clouddeploy_runtime relay "* | *" -m nvflare.private.fed.app."*) is_site=yes ;;
# These make the site's key and its kit, which are beside the workspace.
*" -m clouddeploy_runtime request "* | *" -m clouddeploy_runtime package "*) access=rw ;;
esac
# On the site's own disk: a container's is small, and gone at its end; /tmp in memory would count twice.
mkdir -p "$workspace/home" "$workspace/tmp"

set -- "$(cat "$venv/image")" "$@"
while read -r option; do set -- "$option" "$@"; done <"$venv/options"
# By name, so that no value stands in a list of processes.
names="CLOUDDEPLOY_[A-Z_]*|NVFL_[A-Z_]*|PYTHON[A-GI-Z][A-Z]*|CUDA_VISIBLE_DEVICES|MALLOC_ARENA_MAX"
names="$names|HTTPS?_PROXY|NO_PROXY|https?_proxy|no_proxy"
for name in $(env | sed -nE "s/^($names)=.*/\1/p"); do set -- --env "$name" "$@"; done
if [ "$root" != "$folder" ]; then
    set -- --volume "$folder:$root:$access" --volume "$workspace:$root/workspace" "$@"
fi
if [ "$is_site" = yes ]; then
    # Where its starter was killed and had no time to say a word, the last one lives on and would be a second site.
    "$venv/bin/end" </dev/null
    set -- --name "$(cat "$venv/name")" "$@"
fi
# Tensors between the processes of a job are in shared memory: as much as the machine itself would allow.
shared="$(awk '/^MemTotal:/ { print int($2 / 2) }' /proc/meminfo)k"
exec "$engine" run --rm --pull never --network host --entrypoint python3 --workdir "$workspace" --log-driver none \
    --cap-drop all --security-opt no-new-privileges --security-opt label=disable --pids-limit -1 \
    --shm-size "$shared" --volume "$folder:$folder:$access" --volume "$workspace:$workspace" \
    --volume "$workspace/tmp:/tmp" --env TMPDIR=/tmp --env HOME="$workspace/home" --env USER="$(id -un)" "$@"

#!/bin/sh
# Is `python` in the environment of a site that runs in a container: runs the image's own python3 there, with the same
# arguments, as the calling user. What it needs of the site's folder is where it is outside, and read-only but for the
# workspace. Beside it, bootstrap.sh has written what it found out: engine, image, options, root and name.
set -eu

venv="$(cd "$(dirname "$0")/.." && pwd -P)"
folder="$(dirname "$venv")"
root="$(cat "$venv/root")" # as the site's variables name it; a link on the way makes that another path
area="$folder/container"   # beside the workspace: a link that a job puts there in place of a folder is never followed
engine="$(cat "$venv/engine")"
HOME="$(cat "$venv/home")" # where the engine keeps this account's images; a site may have been given another one
export HOME
is_site=""
is_theirs=""
network=host
# Not the site's folder itself: who can open that can hold the lock for which whatever stops the site waits.
parts="${venv##*/}:ro kits:ro workspace"
case " $* " in
*" -m clouddeploy_runtime server "* | *" -m clouddeploy_runtime client "* | \
    *" -m clouddeploy_runtime relay "*) is_site=yes ;;
*" -m nvflare.private.fed.app."*) is_site=yes is_theirs=yes ;;
# These make the site's key and its kit, of which nobody else is to hear.
*" -m clouddeploy_runtime request "*) network=none parts="${venv##*/}:ro enrolment" ;;
*" -m clouddeploy_runtime package "*) network=none parts="${venv##*/}:ro uploads:ro enrolment packaged" ;;
esac

# An account's docker may come up after the site, whose few tries are used up by then.
case "$engine" in
*/docker)
    deadline=$(($(date +%s) + 120))
    until timeout 10 "$engine" version >/dev/null 2>&1 </dev/null || [ "$(date +%s)" -ge "$deadline" ]; do sleep 0.5; done
    ;;
esac

set -- "$(cat "$venv/image")" "$@"
while read -r option; do set -- "$option" "$@"; done <"$venv/options"
# By name, so that no value stands in a list of processes.
names="CLOUDDEPLOY_[A-Z_]*|NVFL_[A-Z_]*|PYTHON[A-GI-Z][A-Z]*|CUDA_VISIBLE_DEVICES"
names="$names|HTTPS?_PROXY|NO_PROXY|https?_proxy|no_proxy"
for name in $(env | sed -nE "s/^($names)=.*/\1/p"); do set -- --env "$name" "$@"; done
other=""
if [ "$root" != "$folder" ]; then other="$root"; fi
for place in "$folder" ${other:+"$other"}; do
    for part in $parts; do
        if [ -d "$folder/${part%:ro}" ]; then set -- --volume "$folder/${part%:ro}:$place/$part" "$@"; fi
    done
    if [ "$network" = host ] && [ -d "$folder/data/" ]; then
        set -- --volume "$(readlink -f "$folder/data"):$place/data:ro" "$@"
    fi
    # The kit's own script runs outside, so what it runs is out of reach, and what NVFLARE keeps beside it is not.
    if [ "$is_theirs" = yes ] && [ -d "$folder/supervisor/nvflare" ]; then
        mkdir -p "$area/nvflare"
        set -- --volume "$area/nvflare:$place/supervisor/nvflare" \
            --volume "$folder/supervisor/nvflare/startup:$place/supervisor/nvflare/startup:ro" \
            --volume "$folder/supervisor/nvflare/local:$place/supervisor/nvflare/local:ro" "$@"
    fi
done
if [ "$is_site" = yes ]; then
    # Where its starter was killed and had no time to say a word, the last one lives on and would be a second site.
    "$venv/bin/end" </dev/null
    rm -rf "$folder/workspace/pid.fl" # held by nobody now; what a job put there instead would keep the site from starting
    # On the site's own disk: a container's is small, and gone at its end; /tmp in memory would count twice.
    for place in home tmp; do
        if [ -d "$area/$place" ]; then chmod -R u+rwX "$area/$place" 2>/dev/null || true; fi # a job's may be read-only
        rm -rf "${area:?}/$place"
        mkdir -p "$area/$place"
        chmod 700 "$area/$place"
    done
    set -- --name "$(cat "$venv/name")" --volume "$area/tmp:/tmp" --volume "$area/home:$area/home" \
        --env HOME="$area/home" "$@"
else
    # Nothing that a job has left, not even a package in its home.
    set -- --tmpfs /tmp --env HOME=/tmp "$@"
fi
case "$parts" in
*workspace*) set -- --workdir "$folder/workspace" "$@" ;;
*) set -- --workdir / "$@" ;;
esac
# Tensors between the processes of a job are in shared memory: as much as the machine itself would allow.
shared="$(awk '/^MemTotal:/ { print int($2 / 2) }' /proc/meminfo)k"
exec "$engine" run --rm --pull never --network "$network" --entrypoint python3 --log-driver none \
    --cap-drop all --security-opt no-new-privileges --security-opt label=disable --pids-limit -1 \
    --shm-size "$shared" --env TMPDIR=/tmp --env USER="$(id -un)" "$@"

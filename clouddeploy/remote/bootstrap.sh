#!/bin/sh
# Prepares one machine for one site; the same script on every cloud and on premises. May be repeated.
#   bootstrap.sh probe PROJECT SITE                  says what this machine is, and makes the site's folder
#   bootstrap.sh prepare ROOT PYTHON WHEELS          makes the Python environment from what was uploaded
#   bootstrap.sh contain ROOT IMAGE TOOLS WHEN MODULE VERSION [DISTRIBUTION...]
#                                                    instead of prepare: an environment whose python is that of a
#                                                    container image with MODULE; WHEN is kept or newest: the image that
#                                                    the site has, or the one that IMAGE is now. Its last word: WHEELS
#                                                    for what follows
#   bootstrap.sh request ROOT WHEELS NAME WORD...    makes the site's private key, which stays here, and a request for
#                                                    its certificate, unless they are here already
#   bootstrap.sh package ROOT WHEELS NAME ANSWER FINGERPRINT
#                                                    makes the release ANSWER from the project's answer and that key
#   bootstrap.sh install ROOT KIT WHEELS UNIT DATA   installs what was uploaded to ROOT/uploads (DATA may be empty);
#                                                    its last word: changed, when another release runs than the one
#                                                    that is now current, else same
#   bootstrap.sh start|stop|alive|uninstall ROOT SERVICE
#   bootstrap.sh said ROOT SERVICE LINES             shows the end of its logs
#   bootstrap.sh confirm ROOT                        notes that the current release is good; removes what is older than
#                                                    the good one before it
#   bootstrap.sh releases ROOT                       says which release is current, good, previous, and which was started
#   bootstrap.sh rollback ROOT SERVICE RELEASE       stops the site and makes RELEASE current
#   bootstrap.sh driver                              installs the driver of an NVIDIA GPU that has none; its last word:
#                                                    ready, else why it cannot
# A release is one folder, ROOT/releases/ID, of links to a kit and a Python environment, and to data where there are
# any, with the systemd unit; ROOT/current leads to one, so all of that changes, and comes back, with one rename.
# For tests: CLOUDDEPLOY_MACHINE_ROOT stands before /sys, /opt and /etc. CLOUDDEPLOY_NO_SUDO: never be root here;
# CLOUDDEPLOY_NO_CRON: never touch the user's crontab.
set -eu

may_sudo() {
    [ -z "${CLOUDDEPLOY_NO_SUDO:-}" ] && [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n -- "$@"; fi
}

may_be_root() {
    [ -z "${CLOUDDEPLOY_NO_SUDO:-}" ] && { [ "$(id -u)" = 0 ] || may_sudo; }
}

has_systemd() {
    [ -d /run/systemd/system ] && may_be_root
}

# Whether systemd runs a site, and does as we say.
is_unit() {
    has_systemd && [ -e "/etc/systemd/system/$1" ]
}

has_cron() {
    [ -z "${CLOUDDEPLOY_NO_CRON:-}" ] && command -v crontab >/dev/null 2>&1 && ! crontab -l 2>&1 | grep -q 'not allowed'
}

# link TARGET NAME: replaces a link in one step, also after a kill.
link() {
    ln -sfn "$1" "$2.new"
    mv -fT "$2.new" "$2"
}

# Whether a folder holds an installation, or a private key that was made for one.
is_used() {
    [ -L "$1/current" ] || [ -e "$1/started" ] || [ -e "$1/enrolment" ]
}

probe() {
    if [ -d /run/cloud-init ] && command -v cloud-init >/dev/null 2>&1; then
        cloud-init status --wait >/dev/null 2>&1 || true
    fi
    found=""
    for python in python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$python" >/dev/null 2>&1 && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            found=$(command -v "$python")
            break
        fi
    done
    home="$HOME/clouddeploy/$1/$2"
    system="${CLOUDDEPLOY_MACHINE_ROOT:-}/opt/clouddeploy/$1/$2"
    root=$home
    if may_sudo; then root=$system; fi
    # A run before may have been allowed more than this one, or less: the site stays where it is.
    if [ -z "${CLOUDDEPLOY_NO_SUDO:-}" ] && is_used "$system" && ! is_used "$home"; then root=$system; fi
    if is_used "$home" && ! is_used "$system"; then root=$home; fi
    if [ "$root" = "$system" ] && may_sudo; then
        as_root mkdir -p "$root"
        as_root chown "$(id -u):$(id -g)" "$root"
    fi
    if [ -d "$root" ] && [ ! -w "$root" ]; then
        echo "the site is in $root, where $(id -un) may not write: give it to that account, or allow sudo as before"
        exit 1
    fi
    mkdir -p "$root/uploads" "$root/workspace"
    chmod 700 "$root"
    version=""
    if [ -n "$found" ]; then version=$("$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); fi
    boots=yes
    if [ -z "${CLOUDDEPLOY_NO_CRON:-}" ] && ! has_systemd && ! has_cron; then boots=no; fi
    gpu=none
    if has_gpu; then
        gpu=bare
        if has_driver; then gpu=ready; fi
    fi
    have=$(cd "$root/uploads" && echo *)
    printf 'root=%s\npython=%s\nversion=%s\nmachine=%s\nboots=%s\ngpu=%s\nhave=%s\n' \
        "$root" "$found" "$version" "$(uname -m)" "$boots" "$gpu" "$have"
}

# A display (0x0300) or 3D (0x0302) controller of NVIDIA (0x10de): PCI Code and ID Assignment Specification.
has_gpu() {
    for device in "${CLOUDDEPLOY_MACHINE_ROOT:-}"/sys/bus/pci/devices/*; do
        if [ -r "$device/vendor" ] && [ "$(cat "$device/vendor")" = 0x10de ]; then
            case "$(cat "$device/class")" in 0x0300* | 0x0302*) return 0 ;; esac
        fi
    done
    return 1
}

has_driver() {
    command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1
}

# Without the lock, which what it starts would keep.
apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" 7>&- 8>&-
}

# A machine's first boot updates and installs too, and for these locks neither apt nor dpkg waits.
patiently() {
    tries=60
    until answer=$("$@" 2>&1); do
        case "$answer" in *lists/lock* | *dpkg*lock*) ;; *) tries=0 ;; esac
        if [ "$tries" -le 0 ]; then
            printf '%s\n' "$answer"
            return 1
        fi
        tries=$((tries - 1))
        sleep 5
    done
}

apt_update() {
    patiently apt_get update
}

has_module() {
    command -v modinfo >/dev/null 2>&1 && modinfo "$1" >/dev/null 2>&1
}

# Without X: https://ubuntu.com/server/docs/how-to/graphics/install-nvidia-drivers/
driver() {
    if ! has_gpu || has_driver; then
        echo ready
        return
    fi
    if ! may_be_root; then
        echo "sudo is not allowed there, or asks for a password"
        return
    fi
    if ! grep -q '^ID=ubuntu$' "${CLOUDDEPLOY_MACHINE_ROOT:-}/etc/os-release"; then
        echo "only Ubuntu's drivers are known, and that is another distribution"
        return
    fi
    # Sites of one machine are prepared at the same time, also by different accounts: a lock that all of them can take.
    exec 8<"${CLOUDDEPLOY_MACHINE_ROOT:-}/etc"
    if ! flock --wait 1200 8; then
        echo "another run is still installing the driver"
        exit 1
    fi
    install_driver
}

install_driver() {
    # What a run that was killed has left half done.
    patiently as_root env DEBIAN_FRONTEND=noninteractive dpkg --configure -a 8>&-
    if has_driver; then
        echo ready
        return
    fi
    # Installed, and without an answer: nothing that could be installed once more would help. Without nvidia-smi there
    # was no question: a run before has come no further than the module.
    if command -v nvidia-smi >/dev/null 2>&1 &&
        { [ -e "${CLOUDDEPLOY_MACHINE_ROOT:-}/proc/driver/nvidia/version" ] || has_module nvidia; }; then
        echo "its driver is installed, but nvidia-smi does not find the GPU: the machine has to be restarted"
        return
    fi
    apt_update
    if ! command -v ubuntu-drivers >/dev/null 2>&1; then apt_get install --no-install-recommends ubuntu-drivers-common; fi
    as_root ubuntu-drivers install --gpgpu 8>&-
    # It leaves out nvidia-smi, which has to be of the same branch.
    branch=$(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' 'nvidia-*-server' 2>/dev/null |
        sed -n 's/^ii *nvidia-.*-\([0-9][0-9]*\)-server$/\1/p' | sort -n | tail -n 1)
    if [ -z "$branch" ]; then
        echo "ubuntu-drivers found no driver for this GPU"
        exit 1
    fi
    apt_get install --no-install-recommends "nvidia-utils-$branch-server"
    # nouveau, where it has the card, gives it back at the next boot only.
    as_root modprobe nvidia || true
    if ! has_driver; then
        echo "the driver is installed, but nvidia-smi does not find the GPU: the machine has to be restarted"
        exit 1
    fi
    echo ready
}

# A service may not write to its environment, so what it imports, which would be compiled at each start, is imported now.
compile() {
    "$1/bin/python" -P - >/dev/null 2>&1 <<'PROGRAM' || true
import contextlib, importlib
for name in (
    "clouddeploy_runtime.cli",
    "clouddeploy_runtime.client.agent",
    "clouddeploy_runtime.server.parent",
    "clouddeploy_runtime.job.client_api",
    "clouddeploy_runtime.job.fedavg",
    "nvflare.private.fed.app.client.client_train",
    "nvflare.private.fed.app.server.server_train",
):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
PROGRAM
}

prepare() {
    root=$1 python=$2 wheels=$3
    umask 077
    cd "$root"
    venv="venv-$wheels"
    if [ ! -e "$venv/.complete" ]; then
        rm -rf "$venv" "wheels-$wheels"
        mkdir "wheels-$wheels"
        tar -xf "uploads/wheels-$wheels.tar" -C "wheels-$wheels"
        "$python" -m venv --without-pip "$venv"
        # Debian's python3 has no ensurepip; pip runs from its own wheel. Nothing is fetched: --no-index. Only what is
        # imported is worth compiling, and the first import does that: half the time of an installation.
        "$venv/bin/python" "$(echo "wheels-$wheels"/pip-*.whl)/pip" install --quiet --disable-pip-version-check --no-index \
            --no-compile --require-hashes --find-links "wheels-$wheels" -r "wheels-$wheels/requirements.txt"
        rm -rf "wheels-$wheels"
        if has_systemd; then compile "$venv"; fi
        touch "$venv/.complete"
    fi
}

# Finds the container engines that work for this account and makes `engines` their paths, and `said` what the others say.
find_engines() {
    said="" engines=""
    for name in podman docker; do
        if ! engine=$(command -v "$name"); then continue; fi
        if answer=$(within 60 info 2>&1); then
            engines="$engines $engine"
        else
            said="$said$name does not work for $(id -un): $(printf '%s' "$answer" | tail -n 1). "
        fi
    done
    [ -n "$engines" ]
}

# Makes `engine` the one with the image: the site's own, then one that has it under its name, then the first that works.
choose_engine() {
    for engine in $engines; do
        if is_known && [ "$(cat current/venv/engine)" = "$engine" ] && has_image "$(cat current/venv/image)"; then return; fi
    done
    for engine in $engines; do
        if has_image "$image"; then return; fi
    done
    engine=${engines# }
    engine=${engine%% *}
}

# Whether the site runs, or would, in what the reference led to when it was looked up last.
is_known() {
    [ "$(cat current/venv/reference 2>/dev/null)" = "$image" ]
}

has_image() {
    within 60 image inspect "$1" >/dev/null 2>&1
}

by_engine() {
    within 3600 "$@"
}

# within SECONDS WORD...: as the account has the engine, whatever HOME a site was given; and never with the lock, which
# what it starts would keep.
within() {
    limit=$1
    shift
    HOME="$(account_home)" timeout "$limit" "$engine" "$@" </dev/null 7>&- 8>&-
}

account_home() {
    getent passwd "$(id -u)" | cut -d : -f 6
}

require_engine() {
    if find_engines; then return; fi
    if ! command -v podman >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1 && may_be_root; then
        # With what it recommends, which is what each distribution's one needs for accounts other than root.
        if apt_update && apt_get install podman uidmap catatonit && find_engines; then return; fi
    fi
    echo "${said}No container engine works here, and there is none that we may install: install podman (Debian, Ubuntu:" \
        "sudo apt-get install podman uidmap), or let $(id -un) use docker (sudo usermod -aG docker $(id -un), which is as" \
        "good as root on that machine)"
    exit 1
}

# Without root a container lives in the session of its account, which systemd ends when nobody is logged in.
linger() {
    if [ ! -d /run/systemd/system ] || [ -e "/var/lib/systemd/linger/$(id -un)" ]; then return; fi
    if may_be_root && as_root loginctl enable-linger "$(id -un)"; then return; fi
    if ! loginctl enable-linger 2>/dev/null; then
        echo "warning: the site may end when nobody is logged in there any more: sudo loginctl enable-linger $(id -un)"
    fi
}

# What this engine is to run with for this account, one option a line.
run_options() {
    case "$engine" in
    */podman)
        echo "--user=$(id -u):$(id -g)"
        if [ "$(id -u)" != 0 ]; then echo "--userns=keep-id"; fi
        ;;
    *)
        case "$(security)" in
        *name=rootless*) echo "--user=0:0" ;; # which is this account outside
        *name=userns*) printf '%s\n' "--user=$(id -u):$(id -g)" "--userns=host" ;; # else it is nobody outside
        *) echo "--user=$(id -u):$(id -g)" ;;
        esac
        ;;
    esac
    if has_nvidia && takes "$(gpu_option)"; then gpu_option; fi
}

security() {
    by_engine info --format '{{.SecurityOptions}}'
}

# Whether the engine lives in the session of this account.
is_rootless() {
    case "$engine" in
    */podman) [ "$(id -u)" != 0 ] ;;
    *) security | grep -q name=rootless ;;
    esac
}

has_nvidia() {
    [ -e "${CLOUDDEPLOY_MACHINE_ROOT:-}/dev/nvidiactl" ]
}

gpu_option() {
    case "$engine" in
    */podman) echo "--device=nvidia.com/gpu=all" ;;
    *) echo "--gpus=all" ;;
    esac
}

# Whether a container of the image starts with an option.
takes() {
    by_engine run --rm --pull never --network none "$1" --entrypoint python3 "$id" --version >/dev/null 2>&1
}

# Makes `id` that of the image which a reference leads to, pulled if need be. What we pull is known by a name of ours
# alone from then on: see contain.
resolve() {
    is_here=""
    if has_image "$image"; then is_here=yes; fi
    if [ -z "$is_here" ] || [ "$when" = newest ] || [ -e pulled ]; then
        if [ -z "$is_here" ]; then
            printf '%s\n' "$image" "$engine" >pulled.new
            mv -f pulled.new pulled
        fi
        if ! answer=$(by_engine pull --quiet "$image" 2>&1); then
            answer=$(printf '%s' "$answer" | tail -n 3)
            if [ -z "$is_here" ]; then rm -f pulled; fi # somebody may load it there now
            if [ -n "$is_here" ]; then
                echo "warning: $image was not pulled, so the one that was loaded there is used:" "$answer"
            elif is_known && has_image "$(cat current/venv/image)"; then
                echo "warning: $image was not pulled, so the one that the site has is used:" "$answer"
                id=$(cat current/venv/image)
                return
            else
                echo "the image $image is not here and cannot be pulled with ${engine##*/}: $answer"
                exit 1
            fi
        fi
    fi
    id=$(by_engine image inspect --format '{{.Id}}' "$image")
}

# Sites of one account have their images in common: without this one would give up a name that another has just pulled,
# and podman loses names that are given and taken at the same time. The lock is on the engine's own program, which is
# there and can be opened by everybody; it ends with this script.
lock_images() {
    if [ "${locked:-}" = "$engine" ]; then return; fi
    exec 8<"$engine"
    if ! flock --wait 3000 8; then
        echo "another site is still at work with the images of ${engine##*/}"
        exit 1
    fi
    locked=$engine
}

# unname ENGINE NAME: takes a name of an image away; one without any name goes.
unname() {
    if [ ! -x "$1" ]; then return; fi
    before=${engine:-}
    engine=$1
    lock_images
    by_engine rmi "$2" >/dev/null 2>&1 || true # it may have been taken away, or is of somebody else too
    engine=$before
}

contain() {
    root=$1 image=$2 tools=$3 when=$4
    shift 4
    umask 077
    cd "$root"
    require_engine
    # Left by a run that was killed or refused what it had pulled: that may be another image by now.
    if [ -e pulled ] && [ "$(head -n 1 pulled)" != "$image" ]; then unpull; fi
    choose_engine
    lock_images
    if is_rootless; then linger; fi
    id=""
    if [ "$when" = kept ] && is_known && has_image "$(cat current/venv/image)"; then id=$(cat current/venv/image); fi
    if [ -z "$id" ]; then resolve; fi
    options=$(run_options)
    case "$options" in
    *"$(gpu_option)"*) ;;
    *) if has_nvidia; then echo "warning: containers do not get the GPU: install nvidia-container-toolkit, then repeat"; fi ;;
    esac
    wheels=$(printf '%s\n' "$image" "$id" "$tools" "$engine" "$options" | sha256sum | cut -c 1-16)
    venv="venv-$wheels"
    if [ ! -e "$venv/.complete" ]; then
        discard "$venv"
        mkdir -p "$venv/bin"
        tar -xf "uploads/container-$tools.tar" -C "$venv"
        mv "$venv/container.sh" "$venv/bin/python"
        ln -s python "$venv/bin/python3"
        if takes --init; then options="$options
--init"; fi
        name="clouddeploy-$(pwd -P | sha256sum | cut -c 1-12)"
        note root "$root"
        note name "$name"
        note tag "localhost/$name:$wheels"
        note reference "$image"
        note image "$id"
        note engine "$engine"
        note home "$(account_home)"
        note options "$options"
        if ! "$venv/bin/python" "$root/$venv/container_check.py" "$@" </dev/null 7>&- 8>&-; then
            echo "the image $image cannot run this site"
            exit 1
        fi
        mv "$venv/container_end.sh" "$venv/bin/end" # last, since a stop runs it wherever it is
        touch "$venv/.complete"
    fi
    # Under a name of ours it outlives a tag that moves on, and goes with the last release that runs in it. Also where
    # the environment was there: somebody may have taken all images away since.
    by_engine tag "$id" "$(cat "$venv/tag")"
    unpull
    for file in uploads/container-*; do
        if [ "$file" != "uploads/container-$tools.tar" ]; then rm -f "$file"; fi
    done
    echo "$wheels"
}

# note NAME VALUE: writes down a fact of an environment.
note() {
    printf '%s\n' "$2" >"$venv/$1"
}

# Takes the name away under which we pulled an image.
unpull() {
    if [ ! -e pulled ]; then return; fi
    unname "$(sed -n 2p pulled)" "$(head -n 1 pulled)"
    rm -f pulled
}

# Gives up an environment's image.
forget() {
    if [ ! -s "$1/tag" ] || [ ! -s "$1/engine" ]; then return; fi
    unname "$(cat "$1/engine")" "$(cat "$1/tag")"
}

# Its records stay in the site's folder too, so that nothing is left when that goes.
runtime() {
    venv=$1
    shift
    CLOUDDEPLOY_STATE_DIR="$root/enrolment/records" "$venv/bin/python" -P -m clouddeploy_runtime "$@" </dev/null 7>&-
}

request() {
    root=$1 wheels=$2 name=$3
    shift 3
    umask 077
    cd "$root"
    # The runtime shows a request and its key only when both are whole.
    if [ -e "enrolment/$name/$name.request.zip" ]; then return; fi
    mkdir -p enrolment
    runtime "venv-$wheels" request --name "$name" --out "$root/enrolment" "$@"
}

package() {
    root=$1 wheels=$2 name=$3 answer=$4 fingerprint=$5
    umask 077
    cd "$root"
    if [ -e "kits/$answer/.complete" ]; then return; fi
    rm -rf "kits/$answer" packaged
    mkdir -p "kits/$answer" packaged
    runtime "venv-$wheels" package "$root/uploads/answer-$answer.zip" --workspace "$root/packaged" \
        --request-dir "$root/enrolment/$name" --fingerprint "$fingerprint"
    mv packaged/*/prod_*/"$name" "kits/$answer/kit"
    rm -rf packaged
    touch "kits/$answer/.complete"
}

install() {
    root=$1 kit=$2 wheels=$3 unit=$4 data=$5
    umask 077
    cd "$root"
    if [ ! -e "kits/$kit/.complete" ]; then
        rm -rf "kits/$kit"
        mkdir -p "kits/$kit"
        tar -xpf "uploads/kit-$kit.tar" -C "kits/$kit"
        touch "kits/$kit/.complete"
    fi
    if [ -n "$data" ]; then
        if [ ! -e "data-$data/.complete" ]; then
            rm -rf "data-$data"
            mkdir "data-$data"
            tar -xf "uploads/data-$data.tar" -C "data-$data"
            touch "data-$data/.complete"
        fi
    fi
    release="releases/$kit-$wheels-$unit${data:+-$data}"
    if [ ! -e "$release/.complete" ]; then
        rm -rf "$release"
        mkdir -p "$release"
        ln -s "../../kits/$kit/kit" "$release/kit"
        ln -s "../../venv-$wheels" "$release/venv"
        if [ -n "$data" ]; then ln -s "../../data-$data" "$release/data"; fi
        cp "uploads/unit-$unit" "$release/unit"
        touch "$release/.complete"
    fi
    link current/venv venv
    link current/data data
    rm -f rolling-back
    link "$release" current
    write_environment "$root"
    # Archives of earlier kits hold earlier private keys.
    for file in uploads/*; do
        case "${file#uploads/}" in
        "kit-$kit.tar" | "answer-$kit.zip" | "wheels-$wheels.tar" | "unit-$unit" | "data-$data.tar" | container-*) ;;
        *) rm -f "$file" ;;
        esac
    done
    # Compared with what was started and not with the link before: a kill may have come between the two.
    if [ -e started ]; then before=$(cat started); else before=nothing; fi
    if [ "$before" = "$(what "$root")" ]; then
        echo same
    elif [ "$before" != nothing ] || running "$root"; then
        echo changed
    else
        echo same
    fi
}

# What the site would run now.
what() {
    readlink "$1/current"
}

releases() {
    cd "$1"
    started=""
    if [ -e started ]; then started=$(cat started); fi
    printf 'current=%s\ngood=%s\nprevious=%s\nrolling_back=%s\nstarted=%s\n' "$(readlink current || true)" \
        "$(readlink good || true)" "$(readlink previous || true)" "$(readlink rolling-back || true)" "$started"
}

confirm() {
    root=$1
    umask 077
    cd "$root"
    release=$(readlink current)
    # What the runtime remembers of kits in use belongs to the release: without that, an earlier one could not come back.
    if [ -e workspace/known_kits ] && [ ! -e "$release/known_kits" ]; then
        rm -rf "$release/known_kits.new"
        mkdir "$release/known_kits.new"
        copy_known "$root/workspace/known_kits" "$root/$release/known_kits.new"
        mv -T "$release/known_kits.new" "$release/known_kits"
    fi
    good=$(readlink good || true)
    if [ "$good" != "$release" ]; then
        if [ -n "$good" ]; then link "$good" previous; fi
        link "$release" good
    fi
    rm -f rolling-back
    prune
}

# Copies a flat folder of small files without following links: a job that runs may put one there at any moment.
copy_known() {
    (
        cd "$1" || exit 0
        if [ "$(pwd -P)" != "$(cd "$root" && pwd -P)/workspace/known_kits" ]; then exit 0; fi # it was a link itself
        for file in *; do
            dd if="$file" of="$2/$file" iflag=nofollow,nonblock bs=64k count=16 2>/dev/null || rm -f "$2/$file"
        done
    )
}

# Removes what neither the current release nor one to which a rollback may lead is made of; earlier kits hold private keys.
prune() {
    kept=" $(readlink current) $(readlink good) $(readlink previous || true) "
    for release in releases/*; do
        case "$kept" in *" $release "*) ;; *) discard "$release" ;; esac
    done
    for part in kits/* venv-* data-*; do
        if ! readlink releases/*/kit releases/*/venv releases/*/data 2>/dev/null |
            grep -qxF -e "../../$part" -e "../../$part/kit"; then
            discard "$part"
        fi
    done
}

# A kill must not leave a part of it that says that it is complete.
discard() {
    rm -f "$1/.complete" "$1/bin/end"
    forget "$1"
    rm -rf "$1"
}

rollback() {
    root=$1 service=$2 release=$3
    umask 077
    cd "$root"
    if [ ! -e "$release/.complete" ]; then
        echo "$release is not there"
        exit 1
    fi
    link "$release" rolling-back # so that a run after a kill goes on with this one
    stop "$root" "$service"
    rm -rf workspace/known_kits workspace/known_kits.new
    if [ -e "$release/known_kits" ]; then
        cp -R "$release/known_kits" workspace/known_kits.new
        mv -T workspace/known_kits.new workspace/known_kits
    fi
    link "$release" current
}

# Where the supervisor of a release keeps its own files. A container can write to the workspace, so there it could steer
# what runs outside of it: by links, and by numbers of processes.
supervisor_of() {
    if [ -e "$1/$2/venv/engine" ]; then echo "$1/supervisor"; else echo "$1/workspace"; fi
}

export_environment() {
    CLOUDDEPLOY_PYTHON="$1/venv/bin/python" CLOUDDEPLOY_WORKSPACE="$1/workspace" CLOUDDEPLOY_DATA_DIR="$1/data"
    export CLOUDDEPLOY_PYTHON CLOUDDEPLOY_WORKSPACE CLOUDDEPLOY_DATA_DIR
    unset CLOUDDEPLOY_SUPERVISOR
    if [ "$(supervisor_of "$1" current)" = "$1/supervisor" ]; then
        CLOUDDEPLOY_SUPERVISOR="$1/supervisor"
        export CLOUDDEPLOY_SUPERVISOR
        mkdir -p "$CLOUDDEPLOY_SUPERVISOR"
    fi
}

# For those who start the current release without us: systemd, and cron.
write_environment() {
    (
        umask 077
        export_environment "$1"
        printf 'CLOUDDEPLOY_%s=%s\n' PYTHON "$CLOUDDEPLOY_PYTHON" WORKSPACE "$CLOUDDEPLOY_WORKSPACE" \
            DATA_DIR "$CLOUDDEPLOY_DATA_DIR" ${CLOUDDEPLOY_SUPERVISOR:+SUPERVISOR "$CLOUDDEPLOY_SUPERVISOR"} >"$1/site.env.new"
        mv -f "$1/site.env.new" "$1/site.env"
    )
}

# Whether the supervisor of what was started last lives. A number alone may be another process's by now. Not by trying
# its lock: one that starts just then would find it taken, and leave.
running() {
    if [ -s "$1/started" ]; then
        is_supervisor "$1" "$(supervisor_of "$1" "$(cat "$1/started")")"
    elif [ -d "$1/supervisor" ]; then # a container may have written to the workspace
        is_supervisor "$1" "$1/supervisor"
    else
        is_supervisor "$1" "$1/workspace"
    fi
}

# Makes `pid` the number in a supervisor's file.
is_supervisor() {
    if [ -L "$2/daemon_pid.fl" ]; then return 1; fi
    pid=$(head -c 20 "$2/daemon_pid.fl" 2>/dev/null) || return 1
    case "$pid" in "" | 0* | *[!0-9]*) return 1 ;; esac
    [ -r "/proc/$pid/cmdline" ] &&
        tr '\0' ' ' <"/proc/$pid/cmdline" | grep -Eq "$(cd "$1" && pwd -P)/(kits|releases)/.*/kit/startup/sub_start.sh"
}

# until_true DECISECONDS COMMAND…: polls a condition.
until_true() {
    tries=$1
    shift
    while ! "$@"; do
        if [ "$tries" -le 0 ]; then return 1; fi
        tries=$((tries - 1))
        sleep 0.1
    done
}

stopped() {
    ! running "$1"
}

# at_boot SERVICE LINE: makes LINE the service's only one in the user's crontab; an empty one takes it away.
at_boot() {
    if ! has_cron; then return; fi
    (
        flock 8 || exit 1 # all sites of this user are in one table
        # After any other failure there may be a table, and what is written would take its place.
        if ! before=$(crontab -l 2>/dev/null); then
            if ! crontab -l 2>&1 | grep -q 'no crontab for'; then exit 1; fi
            before=""
        fi
        after=$(printf '%s\n' "$before" | grep -vF "# $1" || true)
        if [ -n "$2" ]; then after="${after:+$after
}$2 # $1"; fi
        if [ "$after" != "$before" ]; then printf '%s\n' "$after" | crontab -; fi
    ) 8<"$HOME" || echo "warning: the crontab could not be read or written and is as it was: look at its lines for $1"
}

# Comes before each start: what the last one said of itself must not be taken for news.
fresh() {
    end_container "$1" # which would have the workspace still
    what "$1" >"$1/started"
    rm -f "$1/workspace/status.json"
}

# What systemd runs it would start again, so nobody else can stop it.
still_ours() {
    if [ -d /run/systemd/system ] && [ -e "/etc/systemd/system/$1" ] && ! may_be_root; then
        echo "systemd runs $1, and sudo is not allowed there any more, or asks for a password"
        exit 1
    fi
}

start() {
    root=$1 service=$2
    still_ours "$service"
    export_environment "$root"
    write_environment "$root" # a rollback may have made another release current
    if has_systemd; then
        at_boot "$service" ""
        sed -e "s|@ROOT@|$root|g" -e "s|@USER@|$(id -un)|g" -e "s|@UID@|$(id -u)|g" "$root/current/unit" >"$root/unit.filled"
        if ! systemctl is-active --quiet "$service"; then
            if running "$root"; then stop "$root" "$service"; fi # started when there was no sudo
            fresh "$root"
        fi
        as_root cp "$root/unit.filled" "/etc/systemd/system/$service"
        as_root systemctl daemon-reload
        # One that was started too often before is not started at all.
        if ! systemctl is-active --quiet "$service"; then as_root systemctl reset-failed "$service" 2>/dev/null || true; fi
        as_root systemctl enable --now "$service"
        return
    fi
    at_boot "$service" "@reboot set -a && . '$root/site.env' && '$root/current/kit/startup/start.sh' >/dev/null 2>&1"
    if ! running "$root"; then
        fresh "$root"
        "$root/current/kit/startup/start.sh" 7>&-
        # It returns before its supervisor has written its pid file, and a stop now would find nothing to stop.
        if ! until_true 100 running "$root"; then
            tail -n 20 "${CLOUDDEPLOY_SUPERVISOR:-$root/workspace}/start.log"
            exit 1
        fi
    fi
}

alive() {
    root=$1 service=$2
    if is_unit "$service"; then
        if systemctl is-active --quiet "$service"; then echo yes; else echo no; fi
    elif running "$root"; then echo yes; else echo no; fi
}

stop() {
    root=$1 service=$2
    still_ours "$service"
    cd "$root"
    at_boot "$service" ""
    if is_unit "$service"; then
        as_root systemctl disable --now "$service"
    elif running "$root"; then
        # Not by shutdown.fl: the runtime takes that file itself, and a supervisor that did not see it starts it again.
        kill -TERM "$pid"
        # It ends its child and leaves; it takes twenty seconds at most before it kills.
        if ! until_true 300 stopped "$root"; then
            echo "the site did not stop within 30 s"
            exit 1
        fi
    fi
    end_container "$root"
    rm -f "$root/started"
}

# What a killed supervisor has left of a site in a container, whichever release started it.
end_container() {
    for end in "$1"/venv-*/bin/end; do
        if [ -x "$end" ]; then "$end" </dev/null 7>&-; fi
    done
}

# The end of what the supervisor and the site have said.
said() {
    root=$1 service=$2 lines=$3
    if is_unit "$service"; then
        as_root journalctl --no-pager -o cat -n "$lines" -u "$service" || true
    else
        show "$(supervisor_of "$root" current)/start.log" "$lines"
    fi
    show "$root/workspace/log.txt" "$lines"
}

# A job may have put anything there in the place of a log; NVFLARE's own is behind a link of ours.
show() {
    if [ -f "$1" ]; then tail -n "$2" "$1" 2>/dev/null || true; fi
}

uninstall() {
    root=$1 service=$2
    if [ ! -d "$root" ]; then return; fi
    stop "$root" "$service"
    unpull
    for venv in venv-*; do discard "$venv"; done # one by one: the next run must find nothing that is half there
    cd /
    if is_unit "$service"; then as_root rm -f "/etc/systemd/system/$service"; fi
    rm -rf "${root:?}"/* 2>/dev/null || as_root rm -rf "${root:?}"
    rmdir "$root" 2>/dev/null || as_root rmdir "$root" 2>/dev/null || true
}

action=$1
shift
# What a killed run has begun here goes on; the next run's steps wait for its end.
case "$action" in
prepare | contain | request | package | install | start | stop | confirm | rollback | uninstall)
    if [ -d "$1" ]; then
        exec 7<"$1"
        if ! flock --wait 600 7; then
            echo "an earlier run is still at work in $1"
            exit 1
        fi
    fi
    ;;
esac
"$action" "$@"

#!/bin/sh
# Prepares one machine for one site; the same script on every cloud and on premises. May be repeated.
#   bootstrap.sh probe PROJECT SITE                  says what this machine is, and makes the site's folder
#   bootstrap.sh prepare ROOT PYTHON WHEELS          makes the Python environment from what was uploaded
#   bootstrap.sh request ROOT WHEELS NAME WORD...    makes the site's private key, which stays here, and a request for
#                                                    its certificate, unless they are here already
#   bootstrap.sh package ROOT WHEELS NAME ANSWER FINGERPRINT
#                                                    makes the release ANSWER from the project's answer and that key
#   bootstrap.sh install ROOT KIT WHEELS UNIT DATA   installs what was uploaded to ROOT/uploads (DATA may be empty);
#                                                    its last word: changed, when another release runs than the one
#                                                    that is now current, else same
#   bootstrap.sh start|stop|alive|uninstall ROOT SERVICE
set -eu

may_sudo() {
    [ -z "${CLOUDDEPLOY_NO_SUDO:-}" ] && [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n -- "$@"; fi
}

has_systemd() {
    [ -z "${CLOUDDEPLOY_NO_SUDO:-}" ] && [ -d /run/systemd/system ] && { [ "$(id -u)" = 0 ] || may_sudo; }
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
    root="$HOME/clouddeploy/$1/$2"
    if may_sudo; then
        root="/opt/clouddeploy/$1/$2"
        as_root mkdir -p "$root"
        as_root chown "$(id -u):$(id -g)" "$root"
    fi
    mkdir -p "$root/uploads" "$root/workspace"
    chmod 700 "$root"
    version=""
    if [ -n "$found" ]; then version=$("$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); fi
    boots=yes
    if [ -z "${CLOUDDEPLOY_NO_SUDO:-}" ] && [ -d /run/systemd/system ] && ! has_systemd; then boots=no; fi
    have=$(cd "$root/uploads" && echo *)
    printf 'root=%s\npython=%s\nversion=%s\nmachine=%s\nboots=%s\nhave=%s\n' \
        "$root" "$found" "$version" "$(uname -m)" "$boots" "$have"
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
        touch "$venv/.complete"
    fi
}

# Its records stay in the site's folder too, so that nothing is left when that goes.
runtime() {
    venv=$1
    shift
    CLOUDDEPLOY_STATE_DIR="$root/enrolment/records" "$venv/bin/python" -P -m clouddeploy_runtime "$@"
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
    if [ -e "releases/$answer/.complete" ]; then return; fi
    rm -rf "releases/$answer" packaged
    mkdir -p "releases/$answer"
    runtime "venv-$wheels" package "$root/uploads/answer-$answer.zip" --workspace "$root/packaged" \
        --request-dir "$root/enrolment/$name" --fingerprint "$fingerprint"
    mv packaged/*/prod_*/"$name" "releases/$answer/kit"
    rm -rf packaged
    touch "releases/$answer/.complete"
}

install() {
    root=$1 kit=$2 wheels=$3 unit=$4 data=$5
    umask 077
    cd "$root"
    venv="venv-$wheels"
    ln -sfn "$venv" venv.new
    mv -fT venv.new venv
    if [ ! -e "releases/$kit/.complete" ]; then
        rm -rf "releases/$kit"
        mkdir -p "releases/$kit"
        tar -xpf "uploads/kit-$kit.tar" -C "releases/$kit"
        touch "releases/$kit/.complete"
    fi
    if [ -n "$data" ]; then
        if [ ! -e "data-$data/.complete" ]; then
            rm -rf "data-$data"
            mkdir "data-$data"
            tar -xf "uploads/data-$data.tar" -C "data-$data"
            touch "data-$data/.complete"
        fi
        ln -sfn "data-$data" data.new
        mv -fT data.new data
    fi
    printf 'CLOUDDEPLOY_PYTHON=%s/venv/bin/python\nCLOUDDEPLOY_WORKSPACE=%s/workspace\nCLOUDDEPLOY_DATA_DIR=%s/data\n' \
        "$root" "$root" "$root" >site.env
    cp "uploads/unit-$unit" unit.new
    mv -fT unit.new unit
    ln -sfn "releases/$kit" current.new
    mv -fT current.new current
    # Archives of earlier kits hold earlier private keys.
    for file in uploads/*; do
        case "${file#uploads/}" in
        "kit-$kit.tar" | "answer-$kit.zip" | "wheels-$wheels.tar" | "unit-$unit" | "data-$data.tar") ;;
        *) rm -f "$file" ;;
        esac
    done
    # Compared with what was started and not with the link before: a kill may have come between the two.
    if [ -e started ] && [ "$(cat started)" != "$(what "$root")" ]; then echo changed; else echo same; fi
}

# What the site would run now.
what() {
    echo "$(readlink "$1/current") $(readlink "$1/venv") $(readlink "$1/data" || true)"
}

export_environment() {
    CLOUDDEPLOY_PYTHON="$1/venv/bin/python" CLOUDDEPLOY_WORKSPACE="$1/workspace" CLOUDDEPLOY_DATA_DIR="$1/data"
    export CLOUDDEPLOY_PYTHON CLOUDDEPLOY_WORKSPACE CLOUDDEPLOY_DATA_DIR
}

# The supervisor holds a lock on its pid file as long as it lives; a number alone may be another process's by now.
running() {
    [ -s "$1/workspace/daemon_pid.fl" ] && ! flock --nonblock "$1/workspace/daemon_pid.fl" true
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

start() {
    root=$1 service=$2
    export_environment "$root"
    if has_systemd; then
        sed -e "s|@ROOT@|$root|g" -e "s|@USER@|$(id -un)|g" "$root/unit" >"$root/unit.filled"
        if ! systemctl is-active --quiet "$service"; then what "$root" >"$root/started"; fi
        as_root cp "$root/unit.filled" "/etc/systemd/system/$service"
        as_root systemctl daemon-reload
        as_root systemctl enable --now "$service"
    elif ! running "$root"; then
        what "$root" >"$root/started"
        "$root/current/kit/startup/start.sh"
        # It returns before its supervisor has written its pid file, and a stop now would find nothing to stop.
        if ! until_true 100 running "$root"; then
            tail -n 20 "$root/workspace/start.log"
            exit 1
        fi
    fi
}

alive() {
    root=$1 service=$2
    if has_systemd && [ -e "/etc/systemd/system/$service" ]; then
        if systemctl is-active --quiet "$service"; then echo yes; else echo no; fi
    elif running "$root"; then echo yes; else echo no; fi
}

stop() {
    root=$1 service=$2
    cd "$root"
    if has_systemd && [ -e "/etc/systemd/system/$service" ]; then
        as_root systemctl disable --now "$service"
    elif running "$root"; then
        # Not by shutdown.fl: the runtime takes that file itself, and a supervisor that did not see it starts it again.
        pid=$(cat "$root/workspace/daemon_pid.fl")
        if ! tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q "$(pwd -P)/releases/.*/kit/startup/sub_start.sh"; then
            echo "process $pid is not the supervisor that was started here"
            exit 1
        fi
        kill -TERM "$pid"
        # It ends its child and leaves; it takes ten seconds at most before it kills.
        if ! until_true 200 stopped "$root"; then
            echo "the site did not stop within 20 s"
            exit 1
        fi
    fi
    rm -f "$root/started"
}

uninstall() {
    root=$1 service=$2
    if [ ! -d "$root" ]; then return; fi
    stop "$root" "$service"
    cd /
    if [ -e "/etc/systemd/system/$service" ] && has_systemd; then as_root rm -f "/etc/systemd/system/$service"; fi
    rm -rf "${root:?}"/* 2>/dev/null || as_root rm -rf "${root:?}"
    rmdir "$root" 2>/dev/null || as_root rmdir "$root" 2>/dev/null || true
}

action=$1
shift
"$action" "$@"

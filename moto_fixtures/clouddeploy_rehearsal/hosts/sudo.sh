#!/bin/sh
# The `sudo` of a machine without root: root in a user namespace that holds nothing but this command, where /etc/ssh is
# the machine's own and no service manager is in sight. MACHINE_ETC_SSH names the folder.
set -eu
while [ "${1:-}" = -n ] || [ "${1:-}" = -- ]; do
    last=$1
    shift
    if [ "$last" = -- ]; then break; fi
done
# shellcheck disable=SC2016 # expanded by the inner shell
exec unshare --user --map-root-user --mount --pid --fork --kill-child sh -eu -c '
mount --bind "$MACHINE_ETC_SSH" /etc/ssh
mount -t tmpfs tmpfs /run
mount -t proc proc /proc
exec "$@"' sh "$@"

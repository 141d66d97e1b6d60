#!/bin/sh
# The `crontab` of an emulated machine: shows and replaces the table of a user, whose @reboot entries each boot runs.
# MACHINE_CRONTABS names the folder, where that is not the usual one.
set -eu
umask 077
user="$(id -un)"
table="${MACHINE_CRONTABS:-/var/spool/cron/crontabs}/$user"
case "${1:-}" in
    -l)
        if [ ! -e "$table" ]; then
            echo "no crontab for $user" >&2
            exit 1
        fi
        cat "$table"
        ;;
    -)
        mkdir -p "$(dirname "$table")"
        new="$(mktemp)"
        cat >"$new"
        mv "$new" "$table"
        ;;
    *)
        echo "usage: crontab -l | crontab -" >&2
        exit 1
        ;;
esac

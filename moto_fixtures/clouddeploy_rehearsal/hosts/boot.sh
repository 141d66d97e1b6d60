#!/bin/bash
# First process of one boot of an emulated machine: what does not outlive a boot, what a boot starts, then sshd as PID 1.
# There is no systemd; cron's part is here: every user's @reboot entries.
# USER_NAME is the account; RUN_COMMANDS what the machine runs at its first boot.
set -euo pipefail

mount -t proc proc /proc
for folder in /tmp /dev/shm; do mount -t tmpfs -o mode=1777 tmpfs "$folder"; done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd

if [ ! -e /var/lib/instance-booted ]; then
    touch /var/lib/instance-booted
    if [ -n "${RUN_COMMANDS:-}" ]; then bash -c "$RUN_COMMANDS" >/run/user-data.log 2>&1 || true; fi
fi

# As cron does: a new session, sh, next to no environment (crontab(5) of Debian's cron).
for table in /var/spool/cron/crontabs/*; do
    if [ ! -f "$table" ]; then continue; fi
    user="$(basename "$table")"
    home="$(getent passwd "$user" | cut -d: -f6)" || continue
    sed -n 's/^@reboot[[:space:]]*//p' "$table" | while read -r command; do
        (
            cd "$home"
            exec setsid setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups \
                env -i HOME="$home" LOGNAME="$user" SHELL=/bin/sh PATH=/usr/bin:/bin sh -c "$command" \
                </dev/null >>/var/log/cron.log 2>&1
        ) &
    done
done

touch /var/lib/booted
exec /usr/sbin/sshd -D -e -o PasswordAuthentication=no -o UsePAM=no -o UseDNS=no -o MaxStartups=100 \
    -o HostKey=/etc/ssh/ssh_host_ed25519_key </dev/null

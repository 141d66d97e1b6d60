#!/bin/sh
# Gives this machine the host key that it made itself. Run as root; each step may be repeated.
#   rekey.sh make       makes the final key beside the old one and prints its public half
#   rekey.sh switch     makes it the only host key and has sshd read it
set -eu
final=/etc/ssh/clouddeploy_host_ed25519_key

case "$1" in
make)
    if [ ! -s "$final.pub" ]; then
        rm -f "$final" "$final.pub"
        ssh-keygen -q -t ed25519 -N '' -C '' -f "$final"
    fi
    cat "$final.pub"
    ;;
switch)
    cp -p "$final" /etc/ssh/ssh_host_ed25519_key.new
    cp -p "$final.pub" /etc/ssh/ssh_host_ed25519_key.pub
    mv -f /etc/ssh/ssh_host_ed25519_key.new /etc/ssh/ssh_host_ed25519_key
    if [ -d /run/systemd/system ]; then
        systemctl reload ssh 2>/dev/null || systemctl reload sshd
    else
        # The listening sshd is the one whose parent is not an sshd; its sessions are left alone.
        for pid in $(pgrep -x sshd); do
            parent=$(ps -o comm= -p "$(ps -o ppid= -p "$pid" | tr -d ' ')" 2>/dev/null || true)
            if [ "$parent" != sshd ]; then kill -HUP "$pid"; fi
        done
    fi
    ;;
esac

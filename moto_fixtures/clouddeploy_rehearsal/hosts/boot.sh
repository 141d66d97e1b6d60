#!/bin/bash
# First process of an emulated machine: its own root (an overlay of this machine's), then sshd as PID 1.
# SEED holds host_key, host_key.pub and authorized_keys; USER_NAME and HOST_NAME name the account and the machine.
set -euo pipefail

mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$SEED/root"
mkdir "$SEED/root/upper" "$SEED/root/work" "$SEED/root/merged"
mount -t overlay overlay -o "lowerdir=/,upperdir=$SEED/root/upper,workdir=$SEED/root/work" "$SEED/root/merged"
new="$SEED/root/merged"

mount -t proc proc "$new/proc"
mount -t sysfs -o ro sysfs "$new/sys"
for folder in run root home opt srv; do mount -t tmpfs -o mode=755 tmpfs "$new/$folder"; done
mount -t tmpfs tmpfs "$new/dev"
mkdir "$new/dev/pts" "$new/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$new/dev/pts"
ln -s pts/ptmx "$new/dev/ptmx"
ln -s /proc/self/fd "$new/dev/fd"
chmod 1777 "$new/dev/shm"
for device in null zero full random urandom tty; do
    touch "$new/dev/$device"
    mount --bind "/dev/$device" "$new/dev/$device"
done
mkdir -p "$new/run/sshd" "$new/run/old"

hostname "$HOST_NAME"
echo "$HOST_NAME" >"$new/etc/hostname"
printf '127.0.0.1 localhost %s\n' "$HOST_NAME" >"$new/etc/hosts"
rm -f "$new"/etc/ssh/ssh_host_*
install -m 600 "$SEED/host_key" "$new/etc/ssh/ssh_host_ed25519_key"
install -m 644 "$SEED/host_key.pub" "$new/etc/ssh/ssh_host_ed25519_key.pub"
grep -q "^$USER_NAME:" "$new/etc/passwd" || chroot "$new" useradd -M -p '*' -s /bin/bash "$USER_NAME"
install -d -o "$(chroot "$new" id -u "$USER_NAME")" -g "$(chroot "$new" id -g "$USER_NAME")" -m 750 "$new/home/$USER_NAME"
install -d -m 700 "$new/home/$USER_NAME/.ssh"
install -m 600 "$SEED/authorized_keys" "$new/home/$USER_NAME/.ssh/authorized_keys"
chroot "$new" chown -R "$USER_NAME:" "/home/$USER_NAME"
if [ -d "$new/etc/sudoers.d" ]; then
    echo "$USER_NAME ALL=(ALL) NOPASSWD:ALL" >"$new/etc/sudoers.d/90-cloud-init-users"
    chmod 440 "$new/etc/sudoers.d/90-cloud-init-users"
fi

cd "$new"
pivot_root . run/old
umount -l /run/old
mount -t tmpfs -o mode=1777 tmpfs /tmp
if [ -n "${RUN_COMMANDS:-}" ]; then bash -c "$RUN_COMMANDS" >/run/user-data.log 2>&1 || true; fi
exec /usr/sbin/sshd -D -e -o PasswordAuthentication=no -o UsePAM=no -o UseDNS=no -o MaxStartups=100 \
    -o HostKey=/etc/ssh/ssh_host_ed25519_key </dev/null

#!/bin/bash
# An emulated machine from its birth to its end: a disk (an overlay of this machine's, with folders of its own), a name,
# an account; then one boot after the other. What runs is inside the boots (boot.sh); this process is the hardware.
# SEED holds host_key, host_key.pub and authorized_keys; USER_NAME and HOST_NAME name the account and the machine;
# BOOT and CRONTAB are the files boot.sh and crontab.sh.
set -euo pipefail

mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$SEED/root"
mkdir "$SEED/root/upper" "$SEED/root/work" "$SEED/root/merged"
mount -t overlay overlay -o "lowerdir=/,upperdir=$SEED/root/upper,workdir=$SEED/root/work" "$SEED/root/merged"
new="$SEED/root/merged"

mount -t sysfs -o ro sysfs "$new/sys"
# This machine's cards are not the emulated one's.
if [ -d "$new/sys/bus/pci" ]; then mount -t tmpfs tmpfs "$new/sys/bus/pci"; fi
mkdir -p "$new/var/spool/cron"
for folder in root home opt srv var/spool/cron; do mount -t tmpfs -o mode=755 tmpfs "$new/$folder"; done
install -d -m 1777 "$new/var/spool/cron/crontabs"
mount -t tmpfs tmpfs "$new/dev"
mkdir "$new/dev/pts" "$new/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$new/dev/pts"
ln -s pts/ptmx "$new/dev/ptmx"
ln -s /proc/self/fd "$new/dev/fd"
for device in null zero full random urandom tty; do
    touch "$new/dev/$device"
    mount --bind "/dev/$device" "$new/dev/$device"
done

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
install -m 755 "$CRONTAB" "$new/usr/bin/crontab"
install -m 755 "$BOOT" "$new/usr/sbin/boot-emulated-machine"

cd "$new"
mkdir -p .old
mount -t proc proc proc # umount looks there; each boot gets one of its own
pivot_root . .old
umount -l /.old
rmdir /.old
umount /proc

# A boot ends when its first process does: by SIGKILL from the hardware, by SIGHUP from the kernel when it restarts.
# unshare says so with 137 and 129, or with 1 (util-linux before 2.41 trips over it).
while true; do
    status=0
    rm -f /var/lib/booted
    setpriv --pdeathsig KILL unshare --mount --propagation private --pid --fork --kill-child \
        bash /usr/sbin/boot-emulated-machine </dev/null || status=$?
    case "$status" in
        1 | 129 | 137) if [ ! -e /var/lib/booted ]; then exit "$status"; fi ;;
        *) exit "$status" ;;
    esac
done

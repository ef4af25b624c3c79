#!/bin/busybox sh
# /init of the machine's initramfs: loads what reaches the disks, mounts them, and hands over to stage2.sh.
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
while read -r module; do
    $b insmod "/modules/$module" || echo "kvmhost: insmod $module failed"
done </modules/order

# A disk's serial says what it is; the order of devices is the kernel's affair.
for disk in /sys/block/vd*; do
    read -r serial <"$disk/serial"
    eval "$serial=/dev/${disk##*/}"
done

# What is written to the root file system stays in memory.
set -e
$b mount -t erofs -o ro "$base" /base
$b mount -t tmpfs -o size=2g tmpfs /writes
$b mkdir /writes/upper /writes/work
$b mount -t overlay -o lowerdir=/base,upperdir=/writes/upper,workdir=/writes/work overlay /root
$b mount -t erofs -o ro "$payload" /root/leapbox
$b mount -t ext4 -o noatime "$scratch" /root/scratch
for dir in dev proc sys; do $b mount -o move /$dir /root/$dir; done
exec $b switch_root /root /bin/sh /leapbox/tests/kvmhost/inside/stage2.sh

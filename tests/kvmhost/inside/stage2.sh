# PID 1 of the machine: what a host of Leapbox looks like, then the steps, then the end.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 PYTHONPYCACHEPREFIX=/tmp/pycache

mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /results
mount -t tmpfs -o mode=1777 tmpfs /tmp
# Nothing but v2, as on a production host.
mount -t cgroup2 cgroup2 /sys/fs/cgroup
hostname kvmhost
ip link set lo up
# As production is advised: no nested guests, and no search for huge pages at a machine's start.
modprobe kvm nx_huge_pages=never
modprobe kvm_amd nested=0
# There is no udev: these are what a packet filter or a tap would load by its first use.
modprobe -a tun veth nf_tables
install -m 755 /leapbox/bin/firecracker /leapbox/bin/jailer /usr/local/bin

mkdir /dev/virtio-ports
for port in /sys/class/virtio-ports/*; do
    ln -s "/dev/${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done

# In a group of its own, because a group with processes in it cannot have children with limits.
mkdir /sys/fs/cgroup/steps
(echo 0 >/sys/fs/cgroup/steps/cgroup.procs && exec python3 -S /leapbox/tests/kvmhost/inside/runner.py)
echo "kvmhost: the runner ended with $?"
sync
# The machine ends by a reset, which QEMU takes as the end.
echo b >/proc/sysrq-trigger
while :; do sleep 1; done

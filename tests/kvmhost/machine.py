"""The QEMU process: its command line, and the channels to what runs in it."""

import signal
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

from kvmhost.host import HostError
from kvmhost.places import RESULTS
from lab.kernel import die_with_parent

CONSOLE = "console.log"
# What inside/runner.py opens, in this order.
PORTS = ("output", "events", "results")
_DISKS = (("base", True), ("payload", True), ("scratch", False))
# A guest of 8 GiB wants a little more; what is not used is not taken. Less than the least is not worth a try.
_MOST_MIB = 10 * 1024
_LEAST_MIB = 4 * 1024


class Machine:
    """A started machine. Ends with this process, however that ends."""

    def __init__(self, kernel: Path, initramfs: Path, disks: dict[str, Path]):
        self.channels: dict[str, socket.socket] = {}
        with ExitStack() as theirs:
            fds = {}
            for port in PORTS:
                ours, his = socket.socketpair()
                self.channels[port] = ours
                fds[port] = theirs.enter_context(his).fileno()
            argv = command_line(kernel, initramfs, disks, fds, memory_mib())
            self._log = (RESULTS / "qemu.log").open("w")
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=tuple(fds.values()),
                # Ctrl-C is for us to handle: an end without results helps nobody.
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(signal.SIGKILL),
            )

    def wait(self, timeout: float) -> int | None:
        """Its exit status, or None when it still runs."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """Ends it now."""
        self._process.kill()
        self._process.wait()
        self._log.close()


def memory_mib() -> int:
    """What this host can spare, within bounds."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) // 1024 for line in lines if line.startswith("MemAvailable:"))
    if available < _LEAST_MIB + 1024:
        raise HostError(f"the machine needs {_LEAST_MIB} MiB of memory and {available} are available")
    return max(_LEAST_MIB, min(_MOST_MIB, available * 2 // 3))


def tsc_khz() -> int:
    """The rate of this host's TSC: the kernel derives its BogoMIPS from it, two a MHz."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("bogomips"):
            return int(float(line.split(":")[1]) * 500)
    raise HostError("/proc/cpuinfo says nothing of BogoMIPS: is this an x86 host?")


def command_line(kernel: Path, initramfs: Path, disks: dict[str, Path], ports: dict[str, int], mib: int) -> list[str]:
    """QEMU's argument list.

    One CPU: with two, each a thread of its own, QEMU's emulated SVM loses a guest in some fifty, and once in a while
    the machine itself.

    `tsc_early_khz` and `tsc=reliable`: without them a boot on a busy host hangs in calibration, and several CPUs fall
    back to jiffies. `panic=-1` and `reboot=t` make QEMU end when the kernel dies. `mitigations=off`: translated code is
    not what the host's CPU speculates on.
    """
    append = (
        "console=ttyS0 loglevel=4 panic=-1 reboot=t mitigations=off random.trust_cpu=on cryptomgr.notests "
        f"8250.nr_uarts=1 tsc=reliable tsc_early_khz={tsc_khz()}"
    )
    argv = ["qemu-system-x86_64", "-name", "leapbox-kvmhost", "-machine", "microvm,rtc=on", "-cpu", "max"]
    argv += ["-accel", "tcg,tb-size=1024", "-smp", "1", "-m", f"{mib}M"]
    argv += ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
    argv += ["-kernel", str(kernel), "-initrd", str(initramfs), "-append", append]
    argv += ["-serial", f"file:{RESULTS / CONSOLE}"]
    argv += ["-object", "rng-builtin,id=rng", "-device", "virtio-rng-device,rng=rng"]
    for name, read_only in _DISKS:
        drive = f"if=none,id={name},file={disks[name]},format=raw,discard=unmap"
        argv += ["-drive", f"{drive},readonly=on" if read_only else f"{drive},cache=unsafe"]
        argv += ["-device", f"virtio-blk-device,drive={name},serial={name}"]
    argv += ["-device", "virtio-serial-device"]
    for name, fd in ports.items():
        argv += ["-chardev", f"socket,id={name},fd={fd}", "-device", f"virtserialport,chardev={name},name={name}"]
    return argv

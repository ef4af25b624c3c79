"""The few system calls the lab needs that Python 3.10 and 3.11 have no name for."""

import ctypes
import os

CLONE_NEWNS = 0x0002_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x4_0000
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Moves the calling process (for pid namespaces: its next child) into new namespaces."""
    _checked(_libc.unshare(flags), f"unshare({flags:#x})")


def mount(source: str, target: str, fstype: str | None, flags: int = 0) -> None:
    """Mounts `source` on `target`."""
    kind = fstype.encode() if fstype else None
    _checked(_libc.mount(source.encode(), target.encode(), kind, flags, None), f"mount({source} on {target})")


def die_with_parent(signal_number: int) -> None:
    """Asks the kernel for `signal_number` when the parent process ends, however it ends."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")

"""What /proc and the control groups say of a running process, and what that process could do where it is locked in."""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import stat
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CGROUP_ROOT = Path("/sys/fs/cgroup")
# linux/fcntl.h; Python names them from 3.8 on, but not the write seal's number on every build.
F_GET_SEALS, F_SEAL_WRITE = 1034, 8
_PR_SET_NO_NEW_PRIVS = 38
# How many levels `look_inside` goes down in a folder that its caller names as shallow.
_SHALLOW = 2


def status(pid: int) -> dict[str, str]:
    """/proc/PID/status."""
    return _status(f"/proc/{pid}/status")


def _status(place: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in _lines(place))}


def statuses_of_threads(pid: int) -> list[dict[str, str]]:
    """/proc/PID/task/TID/status of every thread, the process's first among them. Some end while they are read."""
    found = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.append(_status(f"/proc/{pid}/task/{thread}/status"))
    assert str(pid) in {seen["Pid"] for seen in found}, f"{pid} has ended"
    return found


def namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def limits(pid: int) -> dict[str, tuple[str, str]]:
    """Resource limits: name → soft, hard."""
    rows = (line[:26].strip() + "\t" + "\t".join(line[26:].split()[:2]) for line in _lines(f"/proc/{pid}/limits")[1:])
    return {name: (soft, hard) for name, soft, hard in (row.split("\t") for row in rows)}


def mounts(pid: int) -> dict[str, set[str]]:
    """Mount point → its options, in the process's own mount namespace."""
    fields = (line.split() for line in _lines(f"/proc/{pid}/mountinfo"))
    return {row[4]: set(row[5].split(",")) for row in fields}


@dataclass(frozen=True)
class Descriptor:
    """An open file of another process."""

    place: str
    target: str
    info: os.stat_result
    writable: bool

    def identity(self) -> tuple[int, int]:
        return self.info.st_dev, self.info.st_ino

    def is_regular(self) -> bool:
        return stat.S_ISREG(self.info.st_mode)

    def is_sealed(self) -> bool:
        """Whether the kernel refuses every write to it, whoever tries."""
        opened = os.open(self.place, os.O_RDONLY)
        try:
            return bool(fcntl.fcntl(opened, F_GET_SEALS) & F_SEAL_WRITE)
        finally:
            os.close(opened)


def descriptors(pid: int) -> list[Descriptor]:
    """What a living process has open. Some are closed while they are read."""
    found = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(_descriptor(f"/proc/{pid}/fd/{number}", f"/proc/{pid}/fdinfo/{number}"))
    return found


def _descriptor(place: str, details: str) -> Descriptor:
    (flags,) = [line.split()[1] for line in _lines(details) if line.startswith("flags:")]
    writable = int(flags, 8) & os.O_ACCMODE != os.O_RDONLY
    return Descriptor(place, os.readlink(place), os.stat(place), writable)


def network_sockets(pid: int) -> set[str]:
    """`socket:[N]` of everything that can send to a network, in the process's network namespace."""
    found = set()
    for table, column in (("tcp", 9), ("tcp6", 9), ("udp", 9), ("udp6", 9), ("raw", 9), ("raw6", 9), ("packet", 8)):
        found |= {f"socket:[{line.split()[column]}]" for line in _lines(f"/proc/{pid}/net/{table}")[1:]}
    return found


def cgroups(pid: int) -> dict[str, Path]:
    """The control group of each hierarchy: controllers ("" for version 2) → its folder."""
    rows = (line.split(":", 2) for line in _lines(f"/proc/{pid}/cgroup"))
    return {controllers: _hierarchy(controllers) / path.lstrip("/") for _, controllers, path in rows}


def _hierarchy(controllers: str) -> Path:
    if controllers:
        return CGROUP_ROOT / controllers.removeprefix("name=")
    return CGROUP_ROOT if (CGROUP_ROOT / "cgroup.controllers").exists() else CGROUP_ROOT / "unified"


def cgroup_limits(pid: int) -> dict[str, float]:
    """What the control groups hold the process to: `memory` bytes, `tasks`, `cpus`. A missing one is not enforced."""
    found: dict[str, float] = {}
    for folder in cgroups(pid).values():
        read = {name: (folder / name).read_text().strip() for name in _LIMITS if (folder / name).exists()}
        for name, text in read.items():
            kind, parse = _LIMITS[name]
            if parsed := parse(folder, text):
                found[kind] = parsed
    return found


def _number(_: Path, text: str) -> float | None:
    return None if text in ("max", "-1") else float(text)


def _share_v2(_: Path, text: str) -> float | None:
    quota, period = text.split()
    return None if quota == "max" else float(quota) / float(period)


def _share_v1(folder: Path, text: str) -> float | None:
    return None if text == "-1" else float(text) / float((folder / "cpu.cfs_period_us").read_text())


_LIMITS = {
    "memory.max": ("memory", _number),
    "memory.limit_in_bytes": ("memory", _number),
    "pids.max": ("tasks", _number),
    "cpu.max": ("cpus", _share_v2),
    "cpu.cfs_quota_us": ("cpus", _share_v1),
}


@dataclass(frozen=True)
class Inside:
    """A process's root as its own user finds it. Paths are relative to that root; /proc is left out."""

    visible: frozenset[str]
    writable: frozenset[str]
    planted: list[str]


def look_inside(pid: int, uid: int, shallow: tuple[str, ...] = ()) -> Inside:
    """Goes where the process is locked in, as its user, looks at everything, and tries to leave something there.

    Below the folders in `shallow`, of which each is one mount, only their own folders are looked into.
    """

    def look() -> tuple[list[str], list[str], list[str]]:
        os.chroot(f"/proc/{pid}/root")
        os.chdir("/")
        _become(uid)
        return _look_around(shallow)

    visible, writable, planted = _in_a_child(look)
    return Inside(frozenset(visible), frozenset(writable), planted)


def what_opens(uid: int, paths: list[Path]) -> list[str]:
    """Which of these another user can open, to read them or to connect to them; and what failed but for the rights."""

    def attempt() -> list[str]:
        _become(uid)
        return [told for path in paths if (told := _opened(path))]

    return _in_a_child(attempt)


def _opened(path: Path) -> str:
    """How opening it ended; nothing if it is not allowed, or if the file is gone by now."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except (PermissionError, FileNotFoundError):
        return ""
    except OSError as error:
        # ENXIO is a socket's: its rights allow to connect to it.
        return f"{path}: {error.strerror}"
    return f"{path}: opened"


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _in_a_child(work: Callable[[], Any]) -> Any:
    """What `work` returns, of a process of its own: it may give up its rights for good."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            with os.fdopen(writing, "wb") as answer:
                answer.write(json.dumps(work()).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return json.loads(text)


def _look_around(shallow: tuple[str, ...]) -> tuple[list[str], list[str], list[str]]:
    visible, writable, planted = [], [], []
    for folder, folders, files in os.walk("/"):
        if folder == "/" and "proc" in folders:
            folders.remove("proc")
        paths = [os.path.join(folder, name) for name in folders + files]
        visible += paths
        writable += [path for path in paths if not os.path.islink(path) and os.access(path, os.W_OK)]
        planted += _plant(folder, [path for path in paths if os.path.isfile(path)])
        parts = folder.strip("/").split("/")
        if parts[0] in shallow and len(parts) >= _SHALLOW:
            folders.clear()
    return [path[1:] for path in visible], [path[1:] for path in writable], planted


def _plant(folder: str, files: list[str]) -> list[str]:
    """What could be made in a folder: nothing, if its walls hold."""
    path = os.path.join(folder, "planted")
    attempts = {
        "file": lambda: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
        "folder": lambda: os.mkdir(path),
        "symbolic link": lambda: os.symlink("/", path),
        "hard link": lambda: os.link(files[0], path) if files else _refuse(),
        "another name": lambda: os.rename(files[0], path) if files else _refuse(),
    }
    made = []
    for what, attempt in attempts.items():
        try:
            attempt()
            made.append(f"{what} {path}")
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                made.append(f"{what} {path}: {error}")
    return made


def _refuse() -> None:
    raise PermissionError(errno.EPERM, "nothing to link")


def _lines(path: str) -> list[str]:
    with open(path) as file:
        return file.read().splitlines()

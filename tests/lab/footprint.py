"""What a server and its sandboxes leave on the host, seen from outside: the judge of leaks.

The lab has a pid namespace and a network namespace of its own, so that everything listed here is this run's. Control
groups are the machine's: those of the run's installations count.
"""

import json
import os
import subprocess
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path

from lab import process

# First 15 characters, as the kernel keeps them.
VMM_COMMANDS = ("qemu-system-x86", "firecracker")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
# Addresses of processes end here.
_KERNELS_FROM = 1 << 47
_PIECE, _OVERLAP = 1 << 24, 1024
_MACHINE_FOLDERS = ("machines", "disks")
# Of the archives, those of base snapshots and images stay, as in `warm`; checkpoints and half-made ones do not.
_PASSING_ARCHIVES = ("ckp-*", ".*-*")


@dataclass(frozen=True)
class Footprint:
    """Everything that may leak, as sets of readable names."""

    processes: frozenset[str]
    network_namespaces: frozenset[str]
    interfaces: frozenset[str]
    cgroups: frozenset[str]
    mounts: frozenset[str]
    files: frozenset[str]

    def what_is_new_since(self, before: "Footprint") -> dict[str, list[str]]:
        """Everything that is here and was not there, by kind; empty when nothing is left behind."""
        new = {f.name: sorted(getattr(self, f.name) - getattr(before, f.name)) for f in fields(self)}
        return {kind: names for kind, names in new.items() if names}


def take(data_dir: Path) -> Footprint:
    """The host's state now. `data_dir` is the server's, or a folder above it."""
    return Footprint(
        processes=frozenset(f"{pid} {command}" for pid, command in commands().items() if _is_ours(command)),
        network_namespaces=frozenset(_network_namespaces()),
        interfaces=frozenset(_interfaces()),
        cgroups=frozenset(_machine_cgroups(data_dir)),
        mounts=frozenset(_mount_points()),
        files=frozenset(_machine_files(data_dir)),
    )


def commands() -> dict[int, str]:
    """Every process of the lab and its command name. Zombies count."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = (entry / "comm").read_text().strip()
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def vmm_pids() -> set[int]:
    """Processes that are virtual machines."""
    return {pid for pid, command in commands().items() if command in VMM_COMMANDS}


def vmm_pids_of(data_dir: Path) -> set[int]:
    """Virtual machines of the installations below `data_dir` alone, by their control groups."""
    lists = (file for parent in installation_cgroups(data_dir) for file in Path(parent).rglob("cgroup.procs"))
    return {int(pid) for file in lists for pid in _read_if_there(file).split()} & vmm_pids()


def _read_if_there(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        # A machine's group goes with the machine.
        return ""


def _is_ours(command: str) -> bool:
    return command in VMM_COMMANDS or command.startswith(("leapbox", "jailer"))


def _network_namespaces() -> set[str]:
    named = {f"/run/netns/{entry.name}" for entry in Path("/run/netns").glob("*")}
    held = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                held.add(os.readlink(entry / "ns/net"))
            except OSError:
                continue
    return named | held


def _interfaces() -> set[str]:
    shown = subprocess.run(["ip", "-json", "link"], capture_output=True, text=True, check=True)
    return {link["ifname"] for link in json.loads(shown.stdout)}


def installation_cgroups(data_dir: Path) -> set[str]:
    """The parent groups of the installations below `data_dir`, in every hierarchy, v1 or v2."""
    instances = (_read_if_there(folder / "instance").strip() for folder in _folders(data_dir, "state"))
    names = {f"leapbox-{instance}" for instance in instances if instance}
    groups = (_CGROUP_ROOT / place / name for name in names for place in ("", *os.listdir(_CGROUP_ROOT)))
    return {str(group) for group in groups if group.is_dir()}


def _machine_cgroups(data_dir: Path) -> set[str]:
    parents = (Path(parent) for parent in installation_cgroups(data_dir))
    return {str(group) for parent in parents for group in parent.iterdir() if group.is_dir()}


def _mount_points() -> set[str]:
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def _machine_files(data_dir: Path) -> set[str]:
    folders = _folders(data_dir, *_MACHINE_FOLDERS)
    archives = _folders(data_dir, "archives")
    passing = {str(entry) for folder in archives for name in _PASSING_ARCHIVES for entry in folder.glob(name)}
    return {str(entry) for folder in folders for entry in folder.glob("*")} | passing


def _folders(below: Path, *names: str) -> list[Path]:
    """Folders of these names, at any depth. Unlike `rglob`, it bears that machines' folders vanish meanwhile."""
    return [Path(place, name) for place, folders, _ in os.walk(below) for name in names if name in folders]


def private_bytes(pid: int) -> int:
    """Memory that would be free without this process: its private pages."""
    total_kib = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_"):
            total_kib += int(line.split()[1])
    return total_kib * 1024


def resident_bytes(pid: int) -> int:
    """Resident memory of one process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def forget_peak(pid: int) -> int:
    """Has the kernel measure a process's peak of memory anew (proc(5), clear_refs); what it has now, in bytes."""
    with open(f"/proc/{pid}/clear_refs", "w") as control:
        control.write("5")
    return peak_bytes(pid)


def peak_bytes(pid: int) -> int:
    """The most resident memory that one process has had since it began, or since `forget_peak`."""
    return int(process.status(pid)["VmHWM"].split()[0]) * 1024


def memory_of(pid: int, own_only: bool = False) -> Iterator[bytes]:
    """Everything in a process's memory, in pieces that overlap by a little. A guest's is in its VMM's.

    `own_only`: what it has of its own, without what it shares with a file. All that a guest has written is in that.
    """
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps.read().splitlines():
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            # Above are the kernel's own pages.
            end = min(end, _KERNELS_FROM)
            for first, last in _own_runs(pid, start, end) if own_only else [(start, end)]:
                yield from pieces(memory.fileno(), first, last)


def _own_runs(pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Pages that are present or swapped out, and of no file (admin-guide/mm/pagemap)."""
    page = os.sysconf("SC_PAGE_SIZE")
    with open(f"/proc/{pid}/pagemap", "rb") as pagemap:
        pagemap.seek(start // page * 8)
        entries = array("Q", pagemap.read(max(end - start, 0) // page * 8))
    at = start
    for is_own, run in groupby(bool(entry >> 62) and not entry >> 61 & 1 for entry in entries):
        until = at + sum(1 for _ in run) * page
        if is_own:
            yield at, until
        at = until


def pieces(file: int, start: int, end: int) -> Iterator[bytes]:
    """What is in an open file, in pieces that overlap by a little, as far as it can be read."""
    for at in range(start, end, _PIECE - _OVERLAP):
        try:
            yield os.pread(file, min(end - at, _PIECE), at)
        except OSError:
            return


def open_descriptors(pid: int) -> int:
    """Open file descriptors of one process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def bytes_on_disk(folder: Path, without: Path | None = None) -> int:
    """Blocks in use below a folder: what sparse files really take. Links to what is below `without` do not count."""
    blocks = _blocks_by_file(folder)
    left_out = _blocks_by_file(without) if without else {}
    return 512 * sum(used for file, used in blocks.items() if file not in left_out)


def _blocks_by_file(folder: Path) -> dict[tuple[int, int], int]:
    found = {}
    for place, _, names in [*os.walk(folder), ("", [], [str(folder)])]:
        for name in names:
            try:
                info = os.lstat(os.path.join(place, name))
            except FileNotFoundError:
                continue
            found[info.st_dev, info.st_ino] = info.st_blocks
    return found

"""What a server and its sandboxes leave on the host, seen from outside: the judge of leaks.

The lab has a pid namespace and a network namespace of its own, so that everything listed here is this run's. Control
groups are the machine's: those of the run's installations count.
"""

import json
import os
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path

# First 15 characters, as the kernel keeps them.
VMM_COMMANDS = ("qemu-system-x86", "firecracker")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_MACHINE_FOLDERS = ("machines", "disks")
# Of the archives, those of warm snapshots and images stay, as in `warm`; checkpoints and half-made ones do not.
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
    names = {f"leapbox-{file.read_text().strip()}" for file in data_dir.glob("**/state/instance")}
    groups = (_CGROUP_ROOT / place / name for name in names for place in ("", *os.listdir(_CGROUP_ROOT)))
    return {str(group) for group in groups if group.is_dir()}


def _machine_cgroups(data_dir: Path) -> set[str]:
    parents = (Path(parent) for parent in installation_cgroups(data_dir))
    return {str(group) for parent in parents for group in parent.iterdir() if group.is_dir()}


def _mount_points() -> set[str]:
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def _machine_files(data_dir: Path) -> set[str]:
    folders = (folder for name in _MACHINE_FOLDERS for folder in data_dir.rglob(name))
    archives = (
        entry for folder in data_dir.rglob("archives") for name in _PASSING_ARCHIVES for entry in folder.glob(name)
    )
    return {str(entry) for folder in folders for entry in folder.iterdir()} | {str(entry) for entry in archives}


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

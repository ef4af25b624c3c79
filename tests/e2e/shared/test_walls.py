"""Case 2: the walls of `walls.py`, read from /proc, the control groups and the jail of running sandboxes."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.shared.walls import LIMITS_OF_ALL, MIB, OF_EVERY_THREAD, OWN_NAMESPACES, WALLS, Walls
from lab import process
from lab.process import Descriptor
from lab.sandboxes import machine_record, sh
from lab.sdk import Leap0Client
from lab.server import ARTIFACTS

pytestmark = pytest.mark.production_driver

KINDS = {
    r"/memfd:leapbox-ram \(deleted\)": "own RAM",
    r"/memfd:leapbox-vmm-log \(deleted\)": "own log",
    r"/dev/net/tun": "tap",
    r"/dev/kvm|anon_inode:kvm-.*": "kvm",
    r"/dev/null": "null",
    r"/dev/u?random": "randomness",
    r"anon_inode:\[(eventfd|eventpoll|timerfd|signalfd)\]": "event",
}


@dataclass(frozen=True)
class Vmm:
    """A running sandbox's VMM."""

    pid: int
    name: str
    uid: int
    vcpus: int
    memory: int
    disk: Path
    walls: Walls


@pytest.fixture(scope="module")
def pair(server):
    """The VMMs of two sandboxes that have just worked."""
    with Leap0Client() as client:
        made = [client.sandboxes.create(timeout=3600) for _ in range(2)]
        for sandbox in made:
            sh(sandbox, "head -c 1000000 /dev/urandom > /home/user/data && sync")
        yield [vmm_of(server, sandbox.id) for sandbox in made]
        for sandbox in made:
            sandbox.delete()


def vmm_of(server, sandbox_id: str) -> Vmm:
    record = machine_record(server.data_dir, sandbox_id)
    shape = record["shape"]
    disk = server.data_dir / "state" / "disks" / f"{record['name']}.ext4"
    memory = shape["memory_mib"] * MIB
    return Vmm(record["pid"], record["name"], record["uid"], shape["vcpus"], memory, disk, WALLS[record["driver"]])


def test_case_2_every_vmm_has_a_user_of_its_own_and_no_privilege(pair):
    for vmm in pair:
        own = [str(vmm.uid)] * 4
        for seen in process.statuses_of_threads(vmm.pid):
            assert seen["Uid"].split() == own and seen["Gid"].split() == own, seen
            assert seen["Groups"] in ("", own[0])
            assert {name: seen[name] for name in OF_EVERY_THREAD} == OF_EVERY_THREAD, seen["Name"]
            assert (int(seen["CapBnd"], 16) == 0) == vmm.walls.bounding_set_is_empty, seen["CapBnd"]
    one, other = pair
    assert one.uid != other.uid and min(one.uid, other.uid) >= 1000


def test_case_2_every_vmm_has_namespaces_of_its_own(pair, server):
    for kind in OWN_NAMESPACES:
        holders = [server.process.pid, *(vmm.pid for vmm in pair)]
        assert len({process.namespace(pid, kind) for pid in holders}) == len(holders), f"{kind} is shared"


def test_case_2_every_vmm_is_the_first_process_of_its_pid_namespace_and_sees_no_other(pair):
    for vmm in pair:
        assert process.status(vmm.pid)["NSpid"].split()[-1] == "1"


def test_case_2_a_jail_holds_what_its_vmm_needs_and_nothing_of_the_host(pair):
    for vmm in pair:
        # Its program lies in mounts that are read-only as a whole, which the next test shows.
        inside, walls = process.look_inside(vmm.pid, vmm.uid, shallow=vmm.walls.own_program), vmm.walls
        seen = {path for path in inside.visible if path.split("/")[0] not in walls.own_program or "/" not in path}
        assert seen - walls.root_may_have == walls.root
        assert inside.writable - walls.root_may_have == walls.writable - walls.root_may_have
        assert inside.planted == [], "nothing can be added to it (case 3)"


def test_case_2_a_vmm_sees_no_mount_of_the_host(pair):
    for vmm in pair:
        mounts = process.mounts(vmm.pid)
        assert set(mounts) == vmm.walls.mounts
        assert ("ro" in mounts["/"]) == vmm.walls.root_is_read_only
        for place in mounts.keys() - {"/"}:
            assert {"ro", "nosuid", "nodev"} <= mounts[place], place


def test_case_2_no_vmm_shares_its_root_with_another(pair):
    roots = [os.stat(f"/proc/{vmm.pid}/root") for vmm in pair]
    assert len({(root.st_dev, root.st_ino) for root in roots}) == len(pair)


def kind_of(descriptor: Descriptor, vmm: Vmm, artifacts: set[tuple[int, int]], pipes: set[str]) -> str:
    """What an open descriptor is; the target itself if it should not be there."""
    for pattern, kind in KINDS.items():
        if re.fullmatch(pattern, descriptor.target):
            return kind
    if descriptor.target.startswith("socket:"):
        unix = descriptor.target not in process.network_sockets(vmm.pid) | process.network_sockets(os.getpid())
        return "unix socket" if unix else f"network {descriptor.target}"
    if descriptor.target in pipes and descriptor.writable:
        return "console"
    if descriptor.is_regular() and descriptor.identity() == identity(vmm.disk):
        return "own disk"
    kept = descriptor.info.st_uid == 0 and descriptor.info.st_mode & 0o022 == 0 and not descriptor.writable
    if descriptor.is_regular() and descriptor.identity() in artifacts and kept:
        return "artifact"
    return f"{'writable ' if descriptor.writable else ''}{descriptor.target}"


def identity_if_there(path: Path) -> tuple[int, int] | None:
    """Of a regular file. The server writes new versions of its notes beside the old ones and renames them."""
    try:
        return identity(path) if path.is_file() else None
    except FileNotFoundError:
        return None


def identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def test_case_2_everything_a_vmm_has_open_is_its_own_or_read_only(pair, server):
    state = server.data_dir / "state"
    shared = [ARTIFACTS, *(folder for folder in state.iterdir() if folder.name in ("warm", "firecracker", "qemu"))]
    artifacts = {known for folder in shared for path in folder.rglob("*") if (known := identity_if_there(path))}
    pipes = {each.target for each in process.descriptors(server.process.pid) if each.target.startswith("pipe:")}
    for vmm in pair:
        kinds = {kind_of(descriptor, vmm, artifacts, pipes) for descriptor in process.descriptors(vmm.pid)}
        assert kinds <= vmm.walls.descriptors, kinds - vmm.walls.descriptors
        assert {"own disk", "tap"} <= kinds


def test_case_2_the_memory_clones_start_from_cannot_be_written_by_any_of_them(pair):
    for vmm in pair:
        images = [each for each in process.descriptors(vmm.pid) if "leapbox-ram" in each.target]
        assert bool(images) == vmm.walls.ram_is_a_memfd
        assert all(image.is_sealed() for image in images)
        mapped = [line.split() for line in Path(f"/proc/{vmm.pid}/maps").read_text().splitlines()]
        shared = [line for line in mapped if len(line) > 5 and "w" in line[1] and "s" in line[1]]
        # Firecracker's own: a vCPU's registers, and the rings it collects packets in.
        harmless = ("leapbox-ram", "anon_inode:kvm-vcpu", "/memfd:iov_deque")
        assert [line for line in shared if not any(name in line[5] for name in harmless)] == []


def test_case_2_every_vmm_is_held_by_a_control_group_of_its_own(pair):
    for vmm in pair:
        expected = {
            "memory": vmm.walls.memory_factor * vmm.memory + vmm.walls.memory_overhead,
            "tasks": vmm.vcpus + vmm.walls.extra_tasks,
            "cpus": vmm.vcpus,
        }
        assert process.cgroup_limits(vmm.pid) == expected
        assert {path.name for path in process.cgroups(vmm.pid).values() if "leapbox-" in str(path)} == {vmm.name}


def test_case_2_every_vmms_resources_are_limited(pair):
    for vmm in pair:
        expected = LIMITS_OF_ALL | vmm.walls.limits
        found = process.limits(vmm.pid)
        assert {name: found[name] for name in expected} == {name: (value, value) for name, value in expected.items()}


def test_case_2_nothing_of_a_vmm_can_be_opened_by_the_neighbours_user(pair):
    for vmm, stranger in (pair, pair[::-1]):
        assert vmm.disk.stat().st_mode & 0o077 == 0, "only its owner opens the disk"
        for descriptor in process.descriptors(vmm.pid):
            assert descriptor.info.st_uid != stranger.uid, descriptor.target
        folder = vmm.disk.parents[1] / "machines" / vmm.name
        files = [vmm.disk, folder, *folder.rglob("*")]
        inner = [Path(f"/proc/{vmm.pid}/{name}") for name in ("mem", "environ", "fd", "root")]
        assert process.what_opens(stranger.uid, files + inner) == []
        assert process.what_opens(stranger.uid, [Path(f"/proc/{vmm.pid}/status")]) != [], "what all may read it reads"


def test_case_2_a_vmms_environment_and_arguments_hold_no_secret(pair, server):
    key = server.env()["LEAP0_API_KEY"].encode()
    for vmm in pair:
        environment, arguments = (Path(f"/proc/{vmm.pid}/{place}").read_bytes() for place in ("environ", "cmdline"))
        assert arguments and key not in arguments + environment
        assert b"LEAPBOX" not in environment and b"LEAP0" not in environment

"""The walls around a VMM, read from /proc while it runs, and what floods do to the host: cases 2, 5 and 6."""

import os
from pathlib import Path

import pytest

from lab.footprint import bytes_on_disk, resident_bytes
from lab.sandboxes import sh, vmm_pid
from lab.sdk import Leap0Client, Leap0Error

NAMESPACES = ("mnt", "net", "pid", "ipc", "uts")
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def pair(server):
    """Two sandboxes and the process ids of their VMMs."""
    with Leap0Client() as client:
        made = [client.sandboxes.create(timeout=3600) for _ in range(2)]
        yield [(sandbox, vmm_pid(server.data_dir, sandbox.id)) for sandbox in made]
        for sandbox in made:
            sandbox.delete()


def status(pid: int, task: str = "") -> dict[str, str]:
    lines = Path(f"/proc/{pid}{task}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def test_case_2_every_vmm_has_a_user_of_its_own_and_no_privilege(pair):
    users = []
    for _, pid in pair:
        tasks = [f"/task/{task}" for task in os.listdir(f"/proc/{pid}/task")]
        for seen in (status(pid, task) for task in tasks):
            assert len(set(seen["Uid"].split())) == 1 and len(set(seen["Gid"].split())) == 1
            assert int(seen["Uid"].split()[0]) >= 1000 and int(seen["Gid"].split()[0]) >= 1000
            assert seen["Groups"] in ("", seen["Gid"].split()[0])
            for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                assert int(seen[kind], 16) == 0, f"{kind} of {pid}: {seen[kind]}"
            assert seen["NoNewPrivs"] == "1"
            assert seen["Seccomp"] == "2", "every thread is behind a seccomp filter"
        users.append(status(pid)["Uid"])
    assert users[0] != users[1], "neighbours share no user"


def test_case_2_every_vmm_has_namespaces_of_its_own(pair, server):
    (_, one), (_, other) = pair
    for kind in NAMESPACES:
        assert namespace(one, kind) != namespace(server.process.pid, kind), f"{kind} is the server's"
    for kind in ("mnt", "net", "pid"):
        assert namespace(one, kind) != namespace(other, kind), f"{kind} is shared with the neighbour"


def test_case_2_every_vmm_sees_a_root_of_its_own_with_nothing_of_the_host(pair):
    roots = []
    for _, pid in pair:
        root = Path(f"/proc/{pid}/root")
        for host_path in ("etc/shadow", "root", "home", "work", "var/lib", "sys/fs/cgroup"):
            assert not (root / host_path).exists(), f"/{host_path} is visible"
        roots.append(os.stat(root))
    assert (roots[0].st_dev, roots[0].st_ino) != (roots[1].st_dev, roots[1].st_ino)


def test_case_2_nothing_in_a_jail_can_be_opened_by_the_neighbours_user(pair):
    (_, one), (_, other) = pair
    stranger = int(status(other)["Uid"].split()[0])
    for fd in os.listdir(f"/proc/{one}/fd"):
        target = os.stat(f"/proc/{one}/fd/{fd}")
        if os.readlink(f"/proc/{one}/fd/{fd}").startswith("/"):
            assert target.st_uid != stranger


def test_case_2_every_vmm_is_in_a_cgroup_of_its_own(pair):
    def groups(pid: int) -> set[str]:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        return {line for line in lines if "leapbox" in line}

    (_, one), (_, other) = pair
    assert groups(one) and groups(other)
    assert groups(one).isdisjoint(groups(other))


def test_case_2_a_vmms_environment_and_arguments_hold_no_secret(pair, server):
    key = server.env()["LEAP0_API_KEY"]
    for _, pid in pair:
        for place in ("environ", "cmdline"):
            assert key.encode() not in Path(f"/proc/{pid}/{place}").read_bytes()
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"LEAPBOX" not in environment and b"LEAP0" not in environment


def beside_the_disks(server) -> int:
    """Bytes of the server's folder and log. The sandboxes' own disks are their quota; the pool makes some meanwhile."""
    state = server.data_dir / "state"
    return bytes_on_disk(server.data_dir) - bytes_on_disk(state / "disks") + server.log.stat().st_size


def test_case_5_a_flood_on_the_console_costs_the_host_bounded_bytes(pair, server):
    (noisy, _), (quiet, _) = pair
    disk_before = beside_the_disks(server)
    memory_before = resident_bytes(server.process.pid)
    flood = (
        "for device in /dev/ttyS0 /dev/hvc0 /dev/console /dev/kmsg; do [ -e $device ] && "
        "(timeout 15 sh -c 'yes aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa > '$device) & done; wait"
    )
    noisy.process.execute(command=f'sudo sh -c "{flood}"'.replace("$device", "\\$device"), timeout=40)
    assert sh(quiet, "echo undisturbed") == "undisturbed\n"
    assert sh(noisy, "echo alive") == "alive\n"
    grown = beside_the_disks(server) - disk_before
    assert grown < 4 * MIB, f"the flood left {grown / MIB:.1f} MiB on the host"
    assert resident_bytes(server.process.pid) - memory_before < 32 * MIB


def test_case_6_a_full_disk_is_that_sandboxs_trouble_alone(pair, server):
    (full, _), (other, _) = pair
    free = int(sh(full, "df --output=avail -B1 /home/user | tail -1"))
    sh(full, f"fallocate -l {free - 8_000_000} /home/user/fill")
    result = full.process.execute(command="head -c 64000000 /dev/zero > /home/user/fill2", timeout=120)
    assert result.exit_code != 0 and "No space left on device" in result.stderr
    with pytest.raises(Leap0Error) as refusal:
        full.filesystem.write_bytes(path="/home/user/fill3", content=b"x" * (9 * MIB))
    assert refusal.value.status_code == 507, refusal.value
    sh(other, "head -c 20000000 /dev/zero > /home/user/fine && rm /home/user/fine")
    sh(full, "rm -f /home/user/fill*; echo room again > /home/user/fine")


@pytest.mark.timeout(900)
def test_case_6_running_out_of_inodes_is_that_sandboxs_trouble_alone(pair):
    (full, _), (other, _) = pair
    code = (
        "import errno, os\n"
        "made = 0\n"
        "try:\n"
        "    for folder in range(10_000):\n"
        "        os.mkdir(f'/home/user/many/{folder}')\n"
        "        for entry in range(1000):\n"
        "            os.mknod(f'/home/user/many/{folder}/{entry}')\n"
        "            made += 1\n"
        "except OSError as error:\n"
        "    print(errno.errorcode[error.errno])\n"
    )
    full.filesystem.write_file(path="/tmp/many.py", content=code)
    printed = sh(full, "mkdir -p /home/user/many && python3 /tmp/many.py", timeout=800)
    assert printed == "ENOSPC\n"
    sh(other, "touch /home/user/fine")
    assert sh(full, "echo alive") == "alive\n"

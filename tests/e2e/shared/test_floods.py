"""What a sandbox that floods its console or fills its disk does to the host and to its neighbours: cases 5 and 6."""

import pytest

from lab.footprint import bytes_on_disk, resident_bytes
from lab.sandboxes import machine_record, sh
from lab.sdk import Leap0Client, Leap0Error

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def pair(server):
    """A sandbox that misbehaves, and one beside it."""
    with Leap0Client() as client:
        made = [client.sandboxes.create(timeout=3600) for _ in range(2)]
        yield made
        for sandbox in made:
            sandbox.delete()


def kept_of(server, sandbox) -> int:
    """Bytes on the host that a sandbox could make grow: the server's folders and log, and its machine's folder.

    Its disk is its quota. Other machines come and go meanwhile.
    """
    state = server.data_dir / "state"
    own = state / "machines" / machine_record(server.data_dir, sandbox.id)["name"]
    places = [own, *(place for place in state.iterdir() if place.name not in ("machines", "disks"))]
    return sum(bytes_on_disk(place, without=state / "disks") for place in places) + server.log.stat().st_size


@pytest.mark.production_driver
@pytest.mark.thorough
def test_case_5_a_flood_on_the_console_costs_the_host_bounded_bytes(pair, server):
    noisy, quiet = pair
    disk_before = kept_of(server, noisy)
    memory_before = resident_bytes(server.process.pid)
    flood = (
        "for device in /dev/ttyS0 /dev/hvc0 /dev/console /dev/kmsg; do [ -e $device ] && "
        "(timeout 8 sh -c 'yes aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa > '$device) & done; wait"
    )
    noisy.process.execute(command=f'sudo sh -c "{flood}"'.replace("$device", "\\$device"), timeout=40)
    assert sh(quiet, "echo undisturbed") == "undisturbed\n"
    assert sh(noisy, "echo alive") == "alive\n"
    grown = kept_of(server, noisy) - disk_before
    assert grown < 4 * MIB, f"the flood left {grown / MIB:.1f} MiB on the host"
    assert resident_bytes(server.process.pid) - memory_before < 32 * MIB


def test_case_6_a_full_disk_is_that_sandboxs_trouble_alone(pair, server):
    full, other = pair
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
    full, other = pair
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

"""What a sandbox that floods its console or fills its disk does to the host and to its neighbours: cases 5 and 6.

`LEAPBOX_TEST_FLOOD_MIB=64 make e2e ARGS="-k case_5"` is the long form.
"""

import json
import os

import pytest

from lab.footprint import bytes_on_disk, forget_peak, peak_bytes
from lab.sandboxes import machine_record, sh
from lab.sdk import Leap0Client, Leap0Error

MIB = 1024 * 1024
FLOOD_BYTES = int(os.environ.get("LEAPBOX_TEST_FLOOD_MIB", "2")) * MIB
# A deadline in seconds: each byte for an emulated serial port is work for the host.
FLOOD_S = 60 + 30 * FLOOD_BYTES // MIB
# Console and log have 64 KiB each.
KEPT_BYTES = MIB // 2
# Whatever is made of each byte of a flood, a line of a log for example.
SERVER_BYTES = 16 * MIB

# Writes to every console there is until they have taken so many bytes together; prints how many each one took. What
# /dev/kmsg takes does not count: the kernel drops most of it.
FLOOD = """
import json, os, sys, threading
goal, taken = int(sys.argv[1]), {}

def flood(device, line):
    try:
        console = os.open(device, os.O_WRONLY | os.O_NOCTTY)
        while sum(taken.values()) < goal:
            written = os.write(console, line)
            if device != "/dev/kmsg":
                taken[device] += written
    except OSError:
        return

consoles = [device for device in ("/dev/ttyS0", "/dev/hvc0", "/dev/console") if os.path.exists(device)]
taken.update(dict.fromkeys(consoles, 0))
wanted = [(flood, (device, b"a" * 63 + b"\\n")) for device in consoles] + [(flood, ("/dev/kmsg", b"<0>" + b"a" * 60))]
threads = [threading.Thread(target=target, args=args) for target, args in wanted]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps(taken))
"""

# Writes 16 MB; prints the name of the error it meets.
FILL = """
import errno
try:
    with open("/home/user/fill2", "wb", buffering=0) as file:
        for _ in range(16):
            file.write(bytes(1_000_000))
except OSError as error:
    print(errno.errorcode[error.errno])
"""


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

    Its disk is its quota. Other machines come and go meanwhile, and the database's journal grows in steps of its own.
    """
    state = server.data_dir / "state"
    own = state / "machines" / machine_record(server.data_dir, sandbox.id)["name"]
    others = (place for place in state.iterdir() if place.name not in ("machines", "disks"))
    places = [own, *(place for place in others if not place.name.startswith("leapbox.db"))]
    return sum(bytes_on_disk(place, without=state / "disks") for place in places) + server.log.stat().st_size


@pytest.mark.production_driver
@pytest.mark.thorough
@pytest.mark.timeout(FLOOD_S + 180)
def test_case_5_a_flood_on_the_console_costs_the_host_bounded_bytes(pair, server):
    noisy, quiet = pair
    noisy.filesystem.write_file(path="/tmp/flood.py", content=FLOOD)
    disk_before, memory_before = kept_of(server, noisy), forget_peak(server.process.pid)
    taken = json.loads(sh(noisy, f"sudo python3 /tmp/flood.py {FLOOD_BYTES}", timeout=FLOOD_S))
    assert sum(taken.values()) >= FLOOD_BYTES >= 4 * KEPT_BYTES, taken
    assert sh(quiet, "echo undisturbed") == "undisturbed\n"
    assert sh(noisy, "echo alive") == "alive\n"
    grown = kept_of(server, noisy) - disk_before
    assert grown < KEPT_BYTES, f"the flood left {grown / MIB:.1f} MiB on the host"
    assert peak_bytes(server.process.pid) - memory_before < SERVER_BYTES


def test_case_6_a_full_disk_is_that_sandboxs_trouble_alone(pair):
    full, other = pair
    free = int(sh(full, "df --output=avail -B1 /home/user | tail -1"))
    sh(full, f"fallocate -l {free - 8_000_000} /home/user/fill")
    full.filesystem.write_file(path="/dev/shm/fill.py", content=FILL)
    assert sh(full, "python3 /dev/shm/fill.py") == "ENOSPC\n"
    with pytest.raises(Leap0Error) as refusal:
        full.filesystem.write_bytes(path="/home/user/fill3", content=b"x" * (9 * MIB))
    assert refusal.value.status_code == 507, refusal.value
    sh(other, "head -c 16000000 /dev/zero > /home/user/fine && sync /home/user/fine")
    sh(full, "rm -f /home/user/fill*; echo room again > /home/user/fine && sync /home/user/fine")

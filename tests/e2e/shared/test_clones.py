"""Clones of one warm snapshot must not share randomness or identity, and their clocks must be right: cases 35, 36."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab import patience
from lab.sandboxes import sh
from lab.sdk import Leap0Client

pytestmark = pytest.mark.production_driver

CLONES = 10

IDENTITY = """
echo kernel-uuid $(cat /proc/sys/kernel/random/uuid)
echo urandom $(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n')
python3 -c '
import os, random, ssl, uuid
print("getrandom", os.getrandom(16).hex())
print("openssl", ssl.RAND_bytes(16).hex())
print("python-uuid", uuid.uuid4())
print("python-random", random.random())
'
echo machine-id $(cat /etc/machine-id)
echo boot-id $(cat /proc/sys/kernel/random/boot_id)
echo hostname $(hostname)
"""


@pytest.fixture(scope="module")
def clones(server):
    """Ten sandboxes, all asked for at once."""
    with Leap0Client() as client, ThreadPoolExecutor(CLONES) as pool:
        made = list(pool.map(lambda _: client.sandboxes.create(timeout=1800), range(CLONES)))
        yield made
        list(pool.map(lambda sandbox: sandbox.delete(), made))


def test_case_35_clones_made_at_once_have_randomness_and_identity_of_their_own(clones):
    with ThreadPoolExecutor(CLONES) as pool:
        printed = list(pool.map(lambda sandbox: sh(sandbox, IDENTITY, timeout=int(patience(60))), clones))
    identities = [dict(line.split(" ", 1) for line in text.split("\n") if line) for text in printed]
    for kind in identities[0]:
        values = [identity[kind] for identity in identities]
        assert all(values), f"{kind} is empty: {values}"
        assert len(set(values)) == CLONES, f"{kind} is shared: {sorted(values)}"


def test_case_35_no_key_or_seed_that_clones_would_share_is_in_the_image(clones):
    found = sh(
        clones[0], "sudo find /etc/ssh /etc/ssl/private /var/lib/systemd /var/lib/dbus -type f 2>/dev/null || true"
    )
    assert [path for path in found.split() if "ssh_host" in path or "seed" in path or "private" in path] == []


def test_case_35_a_clones_identity_stays_what_it_is(clones):
    command = "cat /etc/machine-id /proc/sys/kernel/random/boot_id"
    assert sh(clones[0], command) == sh(clones[0], command)


def test_case_36_the_wall_clock_is_right_within_two_seconds(clones):
    for sandbox in clones:
        before = time.time()
        inside = float(sh(sandbox, "date +%s.%N"))
        after = time.time()
        assert before - 2 <= inside <= after + 2, f"{sandbox.id} is {inside - after:+.1f} s off"


def test_case_36_monotonic_time_goes_forward_at_the_right_pace(clones):
    code = (
        "import time; a = time.monotonic(); w = time.time(); b = [time.monotonic() for _ in range(1000)]; "
        "time.sleep(2); print(all(x <= y for x, y in zip(b, b[1:])), time.monotonic() - a, time.time() - w)"
    )
    started = time.monotonic()
    ordered, monotonic, wall = sh(clones[0], f'python3 -c "{code}"').split()
    outside = time.monotonic() - started
    assert ordered == "True"
    assert 2.0 <= float(monotonic) <= outside + 0.5
    assert abs(float(monotonic) - float(wall)) < 0.2
    assert float(sh(clones[0], "cut -d' ' -f1 /proc/uptime")) > 2

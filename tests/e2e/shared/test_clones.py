"""Clones of one base snapshot must not share randomness or identity, and their clocks must be right: cases 35, 36.

What a clone gets of the kernel and the agent, `tests/conformance/suite/clones.rs` shows with many of them and every
driver. Here are the libraries of the template, and the server, which keeps clones ready and hands them out.
`LEAPBOX_TEST_CLONES=10 make e2e ARGS="-k clones"` is the long form.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import wait_until
from lab.sandboxes import sh, vmm_pid
from lab.sdk import Leap0Client

pytestmark = [pytest.mark.production_driver, pytest.mark.thorough]

CLONES = int(os.environ.get("LEAPBOX_TEST_CLONES", "4"))
CLOCK_TOLERANCE_S = 2
# How old a snapshot is when a clone's clock is looked at: one that nobody has set would be wrong by that.
OLD_S = 4
# More clones than any server keeps ready.
READY_AT_MOST = 40

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
RANDOM = {"kernel-uuid", "urandom", "getrandom", "openssl", "python-uuid", "python-random"}
LASTING = {"machine-id", "boot-id", "hostname"}


@pytest.fixture(scope="module")
def clones(server):
    """Sandboxes that were all asked for at once."""
    with Leap0Client() as client, ThreadPoolExecutor(CLONES) as pool:
        made = list(pool.map(lambda _: client.sandboxes.create(timeout=1800), range(CLONES)))
        yield made
        list(pool.map(lambda sandbox: sandbox.delete(), made))


def identity(sandbox) -> dict[str, str]:
    printed = sh(sandbox, IDENTITY, timeout=60)
    return dict(line.split(" ", 1) for line in printed.splitlines())


def test_case_35_clones_made_at_once_have_randomness_and_identity_of_their_own(clones):
    with ThreadPoolExecutor(CLONES) as pool:
        identities = list(pool.map(identity, clones))
    for kind in RANDOM | LASTING:
        values = [identity[kind] for identity in identities]
        assert all(values), f"{kind} is empty: {values}"
        assert len(set(values)) == CLONES >= 2, f"{kind} is shared: {sorted(values)}"
    before, now = identities[0], identity(clones[0])
    assert {kind for kind in now if now[kind] == before[kind]} == LASTING, "an identity stays what it is"


def test_case_35_no_key_or_seed_that_clones_would_share_is_in_the_image(clones):
    # /etc/passwd shows that the search finds what there is.
    places = "/etc/passwd /etc/ssh /etc/ssl/private /var/lib/systemd /var/lib/dbus"
    found = sh(clones[0], f"sudo find {places} -type f 2>/dev/null || true").split()
    assert "/etc/passwd" in found
    assert [path for path in found if "ssh_host" in path or "seed" in path or "private" in path] == []


def started_at(pid: int) -> float:
    """When a process began, in seconds since 1970."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def late(server, client, clones):
    """A clone that was begun when its snapshot was old already. Those that wait to be handed out may be older."""
    bases = (server.data_dir / "state" / "warm").glob("base-*")
    old_at = max(base.stat().st_mtime for base in bases) + OLD_S
    wait_until("the base snapshot is old", lambda: time.time() > old_at, timeout=OLD_S + 10)
    for _ in range(READY_AT_MOST):
        made = client.sandboxes.create(timeout=1800)
        if started_at(vmm_pid(server.data_dir, made.id)) > old_at:
            break
        made.delete()
    else:
        pytest.fail("every clone was begun while its snapshot was new")
    yield made
    made.delete()


def test_case_36_the_wall_clock_of_a_clone_of_an_old_snapshot_is_right_within_two_seconds(late):
    before = time.time()
    inside = float(sh(late, "date +%s.%N"))
    after = time.time()
    assert before - CLOCK_TOLERANCE_S <= inside <= after + CLOCK_TOLERANCE_S, f"it is {inside - after:+.1f} s off"


def test_case_36_monotonic_time_goes_forward_at_the_right_pace(clones):
    # The wall clock is read between two looks at the monotonic one: it may have been a while between those.
    code = (
        "import time; look = lambda: (time.monotonic(), time.time(), time.monotonic()); first = look(); "
        "b = [time.monotonic() for _ in range(1000)]; time.sleep(1); "
        "print(all(x <= y for x, y in zip(b, b[1:])), *first, *look())"
    )
    started = time.monotonic()
    ordered, *looks = sh(clones[0], f'python3 -c "{code}"').split()
    outside = time.monotonic() - started
    assert ordered == "True"
    earliest, wall, latest, earliest_after, wall_after, latest_after = map(float, looks)
    assert 1.0 <= latest_after - earliest and earliest_after - latest <= outside + 0.5
    assert earliest_after - latest - 0.2 < wall_after - wall < latest_after - earliest + 0.2

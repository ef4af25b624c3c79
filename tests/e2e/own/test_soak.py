"""All that a sandbox goes through, over and over: descriptors, memory, namespaces and disk stay flat. Case 50.

`LEAPBOX_TEST_CHURN` and `LEAPBOX_TEST_LIVES` say how often: `make soak` has hundreds and thousands.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from lab import current, wait_until
from lab.clients import sdk_client
from lab.footprint import bytes_on_disk, open_descriptors, resident_bytes, take
from lab.sandboxes import all_marks, leave_marks, marks, sh
from lab.sdk import Leap0Client

CHURN = int(os.environ.get("LEAPBOX_TEST_CHURN", "40"))
LIVES = int(os.environ.get("LEAPBOX_TEST_LIVES", "16"))
# What may differ between two looks at a server that does nothing: a connection of its metrics, say. It is less than
# what one descriptor for each life after the first look would come to.
DESCRIPTORS = 8
MIB = 1024 * 1024


def is_at_rest(server) -> bool:
    """No machine is being made: the pool has the one it keeps."""
    return server.metric("pool_ready") == 1


@pytest.mark.timeout(300 + 3 * CHURN)
def test_creates_and_deletes_in_a_row_leave_nothing_and_the_server_flat(server):
    pid = server.process.pid
    with sdk_client(server) as client:

        def create_and_delete(numbers: range) -> None:
            for number in numbers:
                sandbox = client.sandboxes.create()
                if number % 10 == 0:
                    assert sh(sandbox, "echo hello") == "hello\n"
                sandbox.delete()
            wait_until("nothing is in the making", lambda: is_at_rest(server), timeout=60)

        create_and_delete(range(CHURN // 5))
        descriptors, memory = open_descriptors(pid), resident_bytes(pid)
        create_and_delete(range(CHURN // 5, CHURN))
        assert client.sandboxes.list().total_items == 0

    def as_many_as_before() -> bool:
        now = open_descriptors(pid)
        assert now <= descriptors + DESCRIPTORS, f"{now}, and {descriptors} before"
        return True

    wait_until("the server has no more descriptors than before", as_many_as_before)
    late = resident_bytes(pid)
    print(f"{CHURN} creates: memory {memory / MIB:.1f} → {late / MIB:.1f} MiB")
    assert late <= memory * 1.2 + 8 * MIB


def live_a_life(client: Leap0Client, number: int) -> None:
    """Create, pause, wake, snapshot, restore, pause, delete."""
    sandbox = client.sandboxes.create(timeout=3600)
    leave_marks(sandbox, "kept")
    sandbox.pause()
    assert marks(sandbox) == all_marks("kept")
    snapshot = sandbox.create_snapshot(name=f"life-{number}", kill_sandbox_after=number % 2 == 0)
    restored = client.snapshots.restore(snapshot_name=snapshot.name)
    assert marks(restored) == all_marks("kept")
    restored.pause()
    restored.delete()
    if number % 2:
        sandbox.delete()
    client.snapshots.delete(snapshot)


@dataclass(frozen=True)
class Look:
    """What the host has of the server, when nothing of a sandbox's is left."""

    descriptors: int
    memory: int
    disk: int
    namespaces: int


def look(server, client: Leap0Client) -> Look:
    assert client.sandboxes.list().total_items == client.snapshots.list().total_items == 0
    assert is_at_rest(server), "a machine is being made"
    footprint = take(current().run_dir)
    stored = {name for name in footprint.files if "/archives/" in name}
    assert not stored, f"checkpoints are left: {stored}"
    pid = server.process.pid
    state = server.data_dir / "state"
    # The machine that is kept ready has files of its own, and is another one each time.
    disk = sum(bytes_on_disk(place) for place in state.iterdir() if place.name not in ("machines", "disks"))
    return Look(open_descriptors(pid), resident_bytes(pid), disk, len(footprint.network_namespaces))


@pytest.mark.timeout(300 + 15 * LIVES)
def test_case_50_lives_with_pauses_snapshots_and_restores_leave_the_host_flat(server):
    with sdk_client(server) as client, ThreadPoolExecutor(2) as pool:

        def look_after(lives: range) -> Look:
            list(pool.map(lambda number: live_a_life(client, number), lives))
            return wait_until("every checkpoint is gone", lambda: look(server, client))

        early, late = look_after(range(LIVES // 4)), look_after(range(LIVES // 4, LIVES))
    print(f"{LIVES} lives: {early} → {late}")
    assert late.descriptors <= early.descriptors + DESCRIPTORS
    assert late.memory <= early.memory * 1.2 + 8 * MIB
    assert late.disk <= early.disk + 8 * MIB
    assert late.namespaces <= early.namespaces + 8

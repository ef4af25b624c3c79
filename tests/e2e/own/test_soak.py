"""All that a sandbox goes through, over and over: descriptors, memory, namespaces and disk stay flat. Case 50."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from lab import current, patience, wait_until
from lab.clients import sdk_client
from lab.footprint import bytes_on_disk, open_descriptors, resident_bytes, take
from lab.sandboxes import all_marks, leave_marks, marks
from lab.sdk import Leap0Client

SECONDS = float(os.environ.get("LEAPBOX_TEST_SOAK_SECONDS", "25"))
MIB = 1024 * 1024


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
    checkpoints: int


def look(server, client: Leap0Client) -> Look:
    assert client.sandboxes.list().total_items == client.snapshots.list().total_items == 0
    pid = server.process.pid
    state = server.data_dir / "state"
    # Machines kept ready come and go, and their number follows demand.
    disk = sum(bytes_on_disk(place) for place in state.iterdir() if place.name not in ("machines", "disks"))
    footprint = take(current().run_dir)
    kept_ready = int(server.metric("pool_ready"))
    passing = {name for name in footprint.files if "/archives/" in name}
    namespaces = len(footprint.network_namespaces) - kept_ready
    return Look(open_descriptors(pid), resident_bytes(pid), disk, namespaces, len(passing))


@pytest.mark.timeout(300 + 3 * SECONDS)
@pytest.mark.settings(LEAPBOX_POOL_SIZE="1")
def test_case_50_lives_with_pauses_snapshots_and_restores_leave_the_host_flat(server):
    with sdk_client(server) as client, ThreadPoolExecutor(2) as pool:
        lives = 0
        looks = []
        for share in (0.25, 0.75):
            deadline = time.monotonic() + patience(SECONDS * share)
            while time.monotonic() < deadline:
                list(pool.map(lambda number: live_a_life(client, number), range(lives, lives + 4)))
                lives += 4
            wait_until("every checkpoint is gone", lambda: look(server, client).checkpoints == 0)
            looks.append(look(server, client))
        early, late = looks
    print(f"{lives} lives: {early} → {late}")
    assert late.descriptors <= early.descriptors + 16
    assert late.memory <= early.memory * 1.2 + 8 * MIB
    assert late.disk <= early.disk + 8 * MIB
    assert late.namespaces <= early.namespaces + 8

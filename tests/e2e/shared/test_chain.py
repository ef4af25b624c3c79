"""Snapshots of snapshots of snapshots: none depends on another, and none is slower than another."""

import statistics
import time
import uuid

import pytest

from lab.sandboxes import all_marks, leave_marks, marks, sh

GENERATIONS = 20
RESTORES = 5


@pytest.mark.timeout(600)
def test_the_twentieth_snapshot_of_snapshots_restores_as_fast_as_the_first_and_has_everything(client):
    names = [f"chain-{number}-{uuid.uuid4().hex[:8]}" for number in range(GENERATIONS + 1)]
    sandbox = client.sandboxes.create(timeout=3600)
    leave_marks(sandbox, "kept")
    first = sandbox.create_snapshot(name=names[0], kill_sandbox_after=True)
    for number in range(1, GENERATIONS + 1):
        sandbox = client.snapshots.restore(snapshot_name=names[number - 1], timeout=3600)
        sh(sandbox, f"echo {number} >>/dev/shm/generations; echo {number} >>~/generations")
        last = sandbox.create_snapshot(name=names[number], kill_sandbox_after=True)

    # In turns, so that whatever else the machine does hits both alike.
    spent: dict[str, list[float]] = {first.name: [], last.name: []}
    for _ in range(RESTORES):
        for name, times in spent.items():
            begun = time.monotonic()
            sandbox = client.snapshots.restore(snapshot_name=name)
            sh(sandbox, "true")
            times.append(time.monotonic() - begun)
            sandbox.delete()
    early, late = (statistics.median(times) for times in spent.values())
    print(f"restored and answered: {early * 1000:.0f} ms; after {GENERATIONS} generations: {late * 1000:.0f} ms")
    assert late <= 1.5 * early

    for snapshot in client.snapshots.list(query="chain-", page_size=100).items:
        if snapshot.name != last.name:
            client.snapshots.delete(snapshot)
    sandbox = client.snapshots.restore(snapshot_name=last.name)
    generations = "".join(f"{number}\n" for number in range(1, GENERATIONS + 1))
    assert sh(sandbox, "cat /dev/shm/generations") == sh(sandbox, "cat ~/generations") == generations
    assert marks(sandbox) == all_marks("kept"), "and it needs none of those before it"
    client.snapshots.delete(last)
    sandbox.delete()

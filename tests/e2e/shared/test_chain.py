"""Snapshots of snapshots of snapshots: each is the base and one set of changes, and needs none of those before it.

`LEAPBOX_TEST_GENERATIONS=20` is the long form. That a late one is restored as fast as an early one follows from what is
looked at here: it is made of the same base, and is not larger by more than was written.
"""

import json
import os
import uuid

import pytest

from lab import Server, wait_until
from lab.sandboxes import all_marks, leave_marks, marks, sh
from lab.stored import archives, checkpoints

GENERATIONS = int(os.environ.get("LEAPBOX_TEST_GENERATIONS", "4"))
# What may come to the first one's bytes: what the kernel and the agent dirty at most, and what a generation adds, which
# is a few pages of files and of the processes that wrote them.
SYSTEM_BYTES, GENERATION_BYTES = 16 << 20, 8 << 20


def stored(server: Server, checkpoint: str) -> dict:
    """What its manifest says of a checkpoint: the base it is a difference from, and the bytes of its parts."""
    content = json.loads((archives(server) / checkpoint / "manifest.json").read_text())["content"]
    parts = {name: part["stats"]["plain_bytes"] for name, part in content["parts"].items()}
    return {"base": content["header"]["base"], "parts": set(parts), "bytes": sum(parts.values())}


@pytest.mark.timeout(120 + 20 * GENERATIONS)
def test_a_snapshot_of_snapshots_is_one_set_of_changes_to_the_first_ones_base_and_has_everything(client, server):
    word = uuid.uuid4().hex[:8]
    sandbox = client.sandboxes.create(timeout=3600)
    leave_marks(sandbox, "kept")
    taken, found = [], []
    for number in range(GENERATIONS + 1):
        if taken:
            sandbox = client.snapshots.restore(snapshot_name=taken[-1].name, timeout=3600)
            sh(sandbox, f"echo {number} >>/dev/shm/generations; echo {number} >>~/generations")
        before = checkpoints(server)
        taken.append(sandbox.create_snapshot(name=f"chain-{number}-{word}", kill_sandbox_after=True))
        (new,) = checkpoints(server) - before
        found.append(new)

    first, last = stored(server, found[0]), stored(server, found[-1])
    print(f"first {first['bytes'] >> 20} MiB; after {GENERATIONS} generations {last['bytes'] >> 20} MiB")
    assert first["base"] and (last["base"], last["parts"]) == (first["base"], first["parts"])
    assert last["bytes"] <= first["bytes"] + SYSTEM_BYTES + GENERATIONS * GENERATION_BYTES

    for snapshot in taken[:-1]:
        client.snapshots.delete(snapshot)
    wait_until("only the last one is stored", lambda: not checkpoints(server) & set(found[:-1]))
    sandbox = client.snapshots.restore(snapshot_name=taken[-1].name)
    generations = "".join(f"{number}\n" for number in range(1, GENERATIONS + 1))
    assert sh(sandbox, "cat /dev/shm/generations") == sh(sandbox, "cat ~/generations") == generations
    assert marks(sandbox) == all_marks("kept"), "and it needs none of those before it"
    client.snapshots.delete(taken[-1])
    sandbox.delete()

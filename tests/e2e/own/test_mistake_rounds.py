"""Rounds of a mistake and a kill amid pauses, wakes and snapshots: nothing acknowledged is lost."""

import os
import random
import threading
import time
from pathlib import Path

import httpx
import pytest

from e2e.own.mistakes import copy_database, exchanged_database, moved, state
from lab.clients import sdk_client
from lab.footprint import vmm_pids_of
from lab.sandboxes import sh
from lab.sdk import Leap0Error
from lab.stored import checkpoints

SETTINGS = {"LEAPBOX_POOL_SIZE": "0", "LEAPBOX_GARBAGE_GRACE_DAYS": "7"}
# Rounds of random mistakes, and the seed of the first one.
ROUNDS = int(os.environ.get("LEAPBOX_TEST_MISTAKES", "4"))
SEED = int(os.environ.get("LEAPBOX_TEST_MISTAKES_SEED", str(random.randrange(1 << 32))))


class Counters:
    """Two sandboxes that count in memory and on the disk, and what of it was acknowledged."""

    def __init__(self, client):
        self.client = client
        self.boxes = [client.sandboxes.create(timeout=3600) for _ in range(2)]
        self.counted = {box.id: 0 for box in self.boxes}
        self.snapshots: dict[str, int] = {}

    def count(self, box) -> None:
        number = self.counted[box.id] + 1
        printed = sh(box, f"echo {number} >/dev/shm/count; echo {number} >~/count; sync ~/count; cat /dev/shm/count")
        self.counted[box.id] = int(printed)

    def act(self, dice: random.Random, until: threading.Event) -> None:
        """Acts on them until the server is gone."""
        while not until.is_set():
            box = dice.choice(self.boxes)
            action = dice.choice(("count", "count", "pause", "snapshot"))
            try:
                if action == "count":
                    self.count(box)
                elif action == "pause":
                    self.client.sandboxes.pause(box.id)
                else:
                    before = self.counted[box.id]
                    self.snapshots[box.create_snapshot().name] = before
            except (Leap0Error, httpx.HTTPError):
                continue

    def assert_nothing_is_lost(self) -> None:
        for box in self.boxes:
            for place in ("/dev/shm/count", "~/count"):
                found = int(sh(box, f"cat {place} 2>/dev/null || echo 0"))
                assert found >= self.counted[box.id], f"{box.id} has lost what was counted in {place}"
        for name, counted in self.snapshots.items():
            restored = self.client.snapshots.restore(snapshot_name=name)
            assert int(sh(restored, "cat /dev/shm/count 2>/dev/null || echo 0")) >= counted, f"{name} has lost a count"
            restored.delete()
            self.client.snapshots.delete(name)
        self.snapshots.clear()


def lower_the_limits(server, backup: Path) -> None:
    with server.settings(max_sandboxes="1"):
        server.start().stop()


def change_a_setting(server, backup: Path) -> None:
    with server.settings(link_block="10.99.0.0/16"):
        if vmm_pids_of(server.data_dir):
            server.refuses_to_start()


def lose_the_key(server, backup: Path) -> None:
    with moved(state(server) / "keys" / "server.key"):
        server.refuses_to_start()


def lose_the_instance(server, backup: Path) -> None:
    (state(server) / "instance").unlink()


def lose_the_database(server, backup: Path) -> None:
    if checkpoints(server):
        with exchanged_database(server, None):
            server.setup()
            server.refuses_to_start()


def put_an_older_database_back(server, backup: Path) -> None:
    with exchanged_database(server, backup):
        server.refuses_to_start()


def nothing(server, backup: Path) -> None:
    """Only the kill."""


MISTAKES = (
    lower_the_limits,
    change_a_setting,
    lose_the_key,
    lose_the_instance,
    lose_the_database,
    put_an_older_database_back,
    nothing,
)


@pytest.mark.timeout(120 + 60 * ROUNDS)
def test_mistakes_and_kills_amid_pauses_wakes_and_snapshots_lose_nothing_acknowledged(server):
    """Each round follows from its seed alone: LEAPBOX_TEST_MISTAKES_SEED repeats the first one."""
    with sdk_client(server) as client:
        counters = Counters(client)
        for number in range(ROUNDS):
            seed = SEED + number
            dice = random.Random(seed)
            mistake = dice.choice(MISTAKES)
            print(f"round {number}: LEAPBOX_TEST_MISTAKES_SEED={seed}, {mistake.__name__}")
            backup = copy_database(server)
            # So that the backup is older than something in every round.
            counters.snapshots[counters.boxes[0].create_snapshot().name] = counters.counted[counters.boxes[0].id]
            over = threading.Event()
            acting = threading.Thread(target=counters.act, args=(dice, over))
            acting.start()
            time.sleep(dice.uniform(0.1, 2))
            (server.kill9 if dice.random() < 0.7 else server.stop)()
            over.set()
            acting.join()
            keys = {file: file.read_bytes() for file in (state(server) / "keys").iterdir()}
            mistake(server, backup)
            for file, content in keys.items():
                file.write_bytes(content)
            server.start()
            counters.assert_nothing_is_lost()
        for box in counters.boxes:
            box.delete()

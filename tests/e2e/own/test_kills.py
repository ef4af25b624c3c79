"""`kill -9` of the server while it pauses, wakes, snapshots, restores, stops, starts and deletes: case 42.

`LEAPBOX_TEST_KILL_ROUNDS=100 make e2e ARGS="-k kill_9_in_the_middle -s"` is the long form.
"""

import collections
import os
import random
import threading
import time
from dataclasses import dataclass, field, replace

import httpx
import pytest

from lab import patience, wait_until
from lab.clients import api_client, sdk_client
from lab.sandboxes import all_marks, leave_marks, marks, sh
from lab.sdk import Leap0Client
from lab.stored import checkpoints, unfinished

ROUNDS = int(os.environ.get("LEAPBOX_TEST_KILL_ROUNDS", "6"))
STABLE = {"running", "paused", "stopped"}
AT_REST = 3
VERBS = ["pause", "wake"] * 4 + ["snapshot"] * 3 + ["restore", "start"] * 2 + ["stop", "delete", "forget"]


@dataclass
class Kept:
    """What a sandbox or a snapshot must have: a word on its disk ("" if we do not know which), and in its memory."""

    mark: str = ""
    memory: bool = False

    def check(self, name: str, found: dict[str, str]) -> None:
        assert found["disk"] and self.mark in ("", found["disk"]), f"{name} has lost its disk: {found}"
        assert not self.memory or found == all_marks(self.mark), f"{name} has lost something: {found}"


@dataclass
class House:
    """What the owner of everything knows, from answers alone.

    A request that was cut off by the kill may have been carried out or not: until the owner has looked, both are right.
    """

    sandboxes: dict[str, Kept] = field(default_factory=dict)
    # Stops that were asked for and not refused: the memory may be gone.
    stops: collections.Counter = field(default_factory=collections.Counter)
    may_be_gone: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    # By name, with their ids.
    snapshots: dict[str, tuple[str, Kept]] = field(default_factory=dict)
    snapshots_in_doubt: set[str] = field(default_factory=set)
    acknowledged: collections.Counter = field(default_factory=collections.Counter)
    unexpected: list[str] = field(default_factory=list)

    def note(self, verb: str, answer: httpx.Response) -> bool:
        """Counts an answer; tells whether it was done."""
        # 409: another thread was faster, or the sandbox is not in that state. 404: it is deleted already.
        if not (answer.is_success or answer.status_code in (404, 409, 502, 503, 504)):
            self.unexpected.append(f"{verb}: {answer.status_code} {answer.text}")
        self.acknowledged[verb] += answer.is_success
        return answer.is_success

    def act(self, api: httpx.Client, dice: random.Random) -> None:
        """One thing that an owner does, at random."""
        verb = dice.choice(VERBS)
        sandbox = dice.choice(sorted(self.sandboxes))
        name = dice.choice(sorted(self.snapshots) or [None])
        path = f"/v1/sandbox/{sandbox}"
        match verb:
            case "pause" | "start":
                self.note(verb, api.post(f"{path}/{verb}"))
            case "wake":
                self.note(verb, api.post(f"{path}/process/execute", json={"command": "true"}))
            case "stop":
                self.stops[sandbox] += 1
                answer = api.post(f"{path}/stop")
                if not self.note(verb, answer) and answer.status_code in (404, 409):
                    self.stops[sandbox] -= 1
            case "snapshot":
                self.snapshot(api, sandbox, f"s-{dice.getrandbits(40):x}")
            case "restore" if name:
                self.restore(api, name)
            case "delete" if len(self.sandboxes) > AT_REST:
                self.may_be_gone.add(sandbox)
                if self.note(verb, api.delete(path)):
                    self.deleted.add(sandbox)
            case "forget" if len(self.snapshots) > 1:
                if known := self.snapshots.pop(name, None):
                    self.snapshots_in_doubt.add(name)
                    self.note(verb, api.delete(f"/v1/snapshot/{known[0]}"))

    def snapshot(self, api: httpx.Client, sandbox: str, name: str) -> None:
        self.snapshots_in_doubt.add(name)
        answer = api.post(f"/v1/sandbox/{sandbox}/snapshot/create", json={"name": name})
        if self.note("snapshot", answer):
            kept = self.sandboxes[sandbox]
            self.snapshots[name] = answer.json()["id"], Kept(kept.mark, kept.memory and not self.stops[sandbox])

    def restore(self, api: httpx.Client, name: str) -> None:
        known = self.snapshots.get(name)
        answer = api.post("/v1/snapshot/restore", json={"snapshot_name": name, "timeout": 3600})
        if self.note("restore", answer):
            self.sandboxes[answer.json()["id"]] = replace(known[1]) if known else Kept()


def disturb(house: House, server, dice: random.Random, stop: threading.Event) -> None:
    """One thread of an owner's, until the server dies."""
    with api_client(server) as api:
        while not stop.is_set():
            try:
                house.act(api, dice)
            except httpx.HTTPError:
                return


@pytest.mark.production_driver
@pytest.mark.thorough
@pytest.mark.timeout(300 + 40 * ROUNDS)
def test_case_42_kill_9_in_the_middle_of_it_all_loses_nothing_that_was_acknowledged(server):
    seed = int(os.environ.get("LEAPBOX_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"LEAPBOX_TEST_SEED={seed}")
    dice = random.Random(seed)
    house = House()
    with sdk_client(server) as client:
        for _ in range(AT_REST):
            create(client, house)
        for number in range(ROUNDS):
            stop = threading.Event()
            threads = [
                threading.Thread(target=disturb, args=(house, server, random.Random(dice.random()), stop))
                for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            deadline = time.monotonic() + patience(dice.uniform(0.3, 2.5))
            wait_until("the moment to kill", lambda: time.monotonic() > deadline, interval=0.01)
            server.kill9()
            stop.set()
            for thread in threads:
                thread.join()
            assert house.unexpected == [], f"round {number}, seed {seed}"
            server.start()
            settle(client, house)
            if number % 3 == 2 or number == ROUNDS - 1:
                check_everything(server, client, house)
            while len(house.sandboxes) < AT_REST:
                create(client, house)
    print(
        dict(sorted(house.acknowledged.items())), f"{len(house.sandboxes)} sandboxes, {len(house.snapshots)} snapshots"
    )
    with sdk_client(server) as client:
        for snapshot, _ in house.snapshots.values():
            client.snapshots.delete(snapshot)
        for sandbox in house.sandboxes:
            client.sandboxes.delete(sandbox)
        assert client.sandboxes.list().total_items == client.snapshots.list().total_items == 0
    wait_until("every checkpoint is gone", lambda: not checkpoints(server), timeout=20)
    assert unfinished(server) == set()


def create(client: Leap0Client, house: House) -> None:
    sandbox = client.sandboxes.create(timeout=3600)
    leave_marks(sandbox, sandbox.id)
    house.sandboxes[sandbox.id] = Kept(sandbox.id, memory=True)


def start(server, sandbox_id: str) -> None:
    with api_client(server) as api:
        answer = api.post(f"/v1/sandbox/{sandbox_id}/start")
        assert answer.status_code == 200, answer.text


def settle(client: Leap0Client, house: House) -> None:
    """What was in doubt is known after the restart, and everything acknowledged is there, in a state it can stay in."""

    def states() -> dict[str, str]:
        items = [item for page in (1, 2) for item in client.sandboxes.list(page_size=100, page=page).items]
        return {item.id: str(getattr(item.state, "value", item.state)) for item in items}

    def all_at_rest() -> bool:
        assert set(states().values()) <= STABLE, states()
        return True

    wait_until("everything half done is settled", all_at_rest)
    known = states()
    assert not house.deleted & set(known), "a deleted sandbox has come back"
    for sandbox in set(house.sandboxes) - set(known):
        assert sandbox in house.may_be_gone, f"{sandbox} had been acknowledged and is lost"
        del house.sandboxes[sandbox]
    for sandbox in set(known) - set(house.sandboxes):
        house.sandboxes[sandbox] = Kept()  # restored, and nobody was told
    for sandbox, kept in house.sandboxes.items():
        kept.memory = kept.memory and not house.stops[sandbox]
    listed = {item.name: item.id for page in (1, 2) for item in client.snapshots.list(page_size=100, page=page).items}
    lost = set(house.snapshots) - set(listed)
    assert not lost, f"snapshots that had been acknowledged are lost: {lost}"
    assert set(listed) <= set(house.snapshots) | house.snapshots_in_doubt
    house.snapshots = {name: (id_, house.snapshots.get(name, (id_, Kept()))[1]) for name, id_ in listed.items()}
    for doubts in (house.may_be_gone, house.stops, house.snapshots_in_doubt):
        doubts.clear()


def check_everything(server, client: Leap0Client, house: House) -> None:
    """Every sandbox answers and every snapshot can be restored, with all that they must have; most are deleted then."""
    for sandbox_id, kept in sorted(house.sandboxes.items()):
        sandbox = client.sandboxes.get(sandbox_id)
        if sandbox.state == "stopped":
            start(server, sandbox_id)
        kept.check(sandbox_id, marks(sandbox))
    for name, (_, kept) in sorted(house.snapshots.items())[-4:]:
        restored = client.snapshots.restore(snapshot_name=name)
        kept.check(name, marks(restored))
        restored.delete()
    kinds = {"sandboxes": [*house.sandboxes.values()], "snapshots": [kept for _, kept in house.snapshots.values()]}
    print({kind: f"{len(all_)}, {sum(kept.memory for kept in all_)} of them whole" for kind, all_ in kinds.items()})
    # The whole ones are kept, and room is left for a new one.
    for sandbox_id in sorted(house.sandboxes, key=lambda id_: not house.sandboxes[id_].memory)[AT_REST - 1 :]:
        client.sandboxes.delete(sandbox_id)
        del house.sandboxes[sandbox_id]
    for name in sorted(house.snapshots, key=lambda name: not house.snapshots[name][1].memory)[4:]:
        client.snapshots.delete(house.snapshots.pop(name)[0])


@pytest.mark.parametrize("verb", ["pause", "snapshot/create", "stop"])
def test_case_42_a_kill_in_the_middle_of_storing_leaves_the_sandbox_and_its_memory(server, verb):
    """Much to store, and a kill as soon as the first bytes of it are on the disk."""
    with sdk_client(server) as client:
        sandbox = client.sandboxes.create(timeout=3600)
        leave_marks(sandbox, "kept")
        folder, place = ("/home/user", "disk") if verb == "stop" else ("/dev/shm", "memory")
        sh(sandbox, f"head -c 60000000 /dev/urandom >{folder}/much; sync", timeout=120)
        much = sh(sandbox, f"sha256sum {folder}/much", timeout=60)

        def ask() -> None:
            with api_client(server) as api:
                try:
                    api.post(f"/v1/sandbox/{sandbox.id}/{verb}")
                except httpx.HTTPError:
                    return

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until("it is being stored", lambda: checkpoints(server) | unfinished(server), interval=0.002)
        server.kill9()
        asking.join()
        server.start()
        after = wait_until("it is settled", lambda: (s := client.sandboxes.get(sandbox.id).state) in STABLE and s)
        if after == "stopped":
            start(server, sandbox.id)
        assert marks(sandbox)[place] == "kept"
        assert after == "stopped" or marks(sandbox) == all_marks("kept")
        assert sh(sandbox, f"sha256sum {folder}/much", timeout=60) == much
        print(f"it was {after} after the kill")
        sandbox.delete()
        for snapshot in client.snapshots.list().items:
            client.snapshots.delete(snapshot)
        wait_until("nothing half stored is left", lambda: not checkpoints(server) | unfinished(server))

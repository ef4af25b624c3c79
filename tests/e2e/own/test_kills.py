"""`kill -9` of the server while it pauses, wakes, snapshots, restores, stops, starts and deletes: case 42.

`LEAPBOX_TEST_KILL_ROUNDS=100 make e2e ARGS="-k kill_9_in_the_middle -s"` is the long form.
"""

import collections
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import httpx
import pytest

from lab import wait_until
from lab.clients import api_client, sdk_client
from lab.logs import Event, events_since
from lab.process import status
from lab.sandboxes import all_marks, leave_marks, marks, sh
from lab.sdk import Leap0Client
from lab.stored import checkpoints, unfinished

ROUNDS = int(os.environ.get("LEAPBOX_TEST_KILL_ROUNDS", "4"))
# How often a kill in the middle is tried.
ATTEMPTS = 5
STABLE = {"running", "paused", "stopped"}
AT_REST = 3
# Each round ends in the middle of one of these requests, in turn, and the seed picks the first. Beside each is the
# state that the log shows meanwhile. A restore has none, because the log does not show a sandbox that is being made.
CUT_OFF = {
    **{"pause": "snapshotting", "snapshot": "snapshotting", "restore": None, "stop": "stopping"},
    **{"wake": "unpausing", "delete": "deleting", "start": "starting"},
}
# What is refused is so at once: after so long a restore is being done.
UNDER_WAY_S = 0.02
# So many requests of a round are acknowledged before it ends.
ACKNOWLEDGED = 3
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
class Expected:
    """What must be there after a kill, as far as the answers before it tell.

    A request that was cut off by the kill may have been carried out or not: until somebody has looked, both are right.
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
    # What each thread is asking for now, of which sandbox, and since when.
    asking: dict[int, tuple[str, str, float]] = field(default_factory=dict)

    def is_under_way(self, verb: str, states: dict[str, str]) -> bool:
        """Whether it is being carried out, where `states` are those of all sandboxes now."""
        asked = [(sandbox, since) for now, sandbox, since in list(self.asking.values()) if now == verb]
        if CUT_OFF[verb] is None:
            return any(time.monotonic() - since > UNDER_WAY_S for _, since in asked)
        return any(states.get(sandbox) == CUT_OFF[verb] for sandbox, _ in asked)

    def note(self, verb: str, answer: httpx.Response) -> bool:
        """Counts an answer; tells whether it was done."""
        # 409: another thread was faster, or the sandbox is not in that state. 404: it is deleted already.
        if not (answer.is_success or answer.status_code in (404, 409, 502, 503, 504)):
            self.unexpected.append(f"{verb}: {answer.status_code} {answer.text}")
        self.acknowledged[verb] += answer.is_success
        return answer.is_success

    def act(self, api: httpx.Client, dice: random.Random) -> None:
        """One request at random."""
        verb = dice.choice(VERBS)
        sandbox = dice.choice(sorted(self.sandboxes))
        name = dice.choice(sorted(self.snapshots) or [None])
        path = f"/v1/sandbox/{sandbox}"
        self.asking[threading.get_ident()] = verb, sandbox, time.monotonic()
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


def disturb(expected: Expected, server, dice: random.Random, stop: threading.Event) -> None:
    """One client, until the server dies."""
    with api_client(server) as api:
        while not stop.is_set():
            try:
                expected.act(api, dice)
            except httpx.HTTPError:
                return


@pytest.mark.production_driver
@pytest.mark.thorough
@pytest.mark.timeout(300 + 40 * ROUNDS)
def test_case_42_kill_9_in_the_middle_of_it_all_loses_nothing_that_was_acknowledged(server):
    seed = int(os.environ.get("LEAPBOX_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"LEAPBOX_TEST_SEED={seed}")
    dice = random.Random(seed)
    expected = Expected()
    with sdk_client(server) as client:
        for _ in range(AT_REST):
            create(client, expected)
        for number in range(ROUNDS):
            stop = threading.Event()
            threads = [
                threading.Thread(target=disturb, args=(expected, server, random.Random(dice.random()), stop))
                for _ in range(3)
            ]
            since = events_since(server)
            for thread in threads:
                thread.start()
            wait_for_the_moment(expected, list(CUT_OFF)[(seed + number) % len(CUT_OFF)], since)
            server.kill9()
            stop.set()
            for thread in threads:
                thread.join()
            expected.asking.clear()
            assert expected.unexpected == [], f"round {number}, seed {seed}"
            server.start()
            settle(client, expected)
            if number % 3 == 2 or number == ROUNDS - 1:
                check_everything(server, client, expected)
            while len(expected.sandboxes) < AT_REST:
                create(client, expected)
    print(
        dict(sorted(expected.acknowledged.items())),
        f"{len(expected.sandboxes)} sandboxes, {len(expected.snapshots)} snapshots",
    )
    with sdk_client(server) as client:
        for snapshot, _ in expected.snapshots.values():
            client.snapshots.delete(snapshot)
        for sandbox in expected.sandboxes:
            client.sandboxes.delete(sandbox)
        assert client.sandboxes.list().total_items == client.snapshots.list().total_items == 0
    wait_until("every checkpoint is gone", lambda: not checkpoints(server), timeout=20)
    assert unfinished(server) == set()


def wait_for_the_moment(expected: Expected, verb: str, since: Callable[..., list[Event]]) -> None:
    """Until some requests are acknowledged and `verb` is being carried out, as the events of this round show."""
    before = expected.acknowledged.total()

    def has_come() -> bool:
        enough = expected.acknowledged.total() - before >= ACKNOWLEDGED
        states = {event["sandbox"]: event["to"] for event in since("state_changed")}
        return bool(expected.unexpected) or enough and expected.is_under_way(verb, states)

    wait_until(f"a {verb} is under way", has_come, timeout=60, interval=0.005)


def create(client: Leap0Client, expected: Expected) -> None:
    sandbox = client.sandboxes.create(timeout=3600)
    leave_marks(sandbox, sandbox.id)
    expected.sandboxes[sandbox.id] = Kept(sandbox.id, memory=True)


def start(server, sandbox_id: str) -> None:
    with api_client(server) as api:
        answer = api.post(f"/v1/sandbox/{sandbox_id}/start")
        assert answer.status_code == 200, answer.text


def settle(client: Leap0Client, expected: Expected) -> None:
    """What was in doubt is known after the restart, and everything acknowledged is there, in a state it can stay in."""

    def states() -> dict[str, str]:
        items = [item for page in (1, 2) for item in client.sandboxes.list(page_size=100, page=page).items]
        return {item.id: str(getattr(item.state, "value", item.state)) for item in items}

    def all_at_rest() -> bool:
        assert set(states().values()) <= STABLE, states()
        return True

    wait_until("everything half done is settled", all_at_rest)
    known = states()
    assert not expected.deleted & set(known), "a deleted sandbox has come back"
    for sandbox in set(expected.sandboxes) - set(known):
        assert sandbox in expected.may_be_gone, f"{sandbox} had been acknowledged and is lost"
        del expected.sandboxes[sandbox]
    for sandbox in set(known) - set(expected.sandboxes):
        expected.sandboxes[sandbox] = Kept()  # restored, and nobody was told
    for sandbox, kept in expected.sandboxes.items():
        kept.memory = kept.memory and not expected.stops[sandbox]
    listed = {item.name: item.id for page in (1, 2) for item in client.snapshots.list(page_size=100, page=page).items}
    lost = set(expected.snapshots) - set(listed)
    assert not lost, f"snapshots that had been acknowledged are lost: {lost}"
    assert set(listed) <= set(expected.snapshots) | expected.snapshots_in_doubt
    expected.snapshots = {name: (id_, expected.snapshots.get(name, (id_, Kept()))[1]) for name, id_ in listed.items()}
    for doubts in (expected.may_be_gone, expected.stops, expected.snapshots_in_doubt):
        doubts.clear()


def check_everything(server, client: Leap0Client, expected: Expected) -> None:
    """Every sandbox answers and every snapshot can be restored, with all that they must have; most are deleted then."""
    for sandbox_id, kept in sorted(expected.sandboxes.items()):
        sandbox = client.sandboxes.get(sandbox_id)
        if sandbox.state == "stopped":
            start(server, sandbox_id)
        kept.check(sandbox_id, marks(sandbox))
    for name, (_, kept) in sorted(expected.snapshots.items())[-4:]:
        restored = client.snapshots.restore(snapshot_name=name)
        kept.check(name, marks(restored))
        restored.delete()
    kinds = {
        "sandboxes": [*expected.sandboxes.values()],
        "snapshots": [kept for _, kept in expected.snapshots.values()],
    }
    print({kind: f"{len(all_)}, {sum(kept.memory for kept in all_)} of them whole" for kind, all_ in kinds.items()})
    # The whole ones are kept, and room is left for a new one.
    for sandbox_id in sorted(expected.sandboxes, key=lambda id_: not expected.sandboxes[id_].memory)[AT_REST - 1 :]:
        client.sandboxes.delete(sandbox_id)
        del expected.sandboxes[sandbox_id]
    for name in sorted(expected.snapshots, key=lambda name: not expected.snapshots[name][1].memory)[4:]:
        client.snapshots.delete(expected.snapshots.pop(name)[0])


@pytest.mark.parametrize("verb", ["pause", "snapshot/create", "stop"])
def test_case_42_a_kill_in_the_middle_of_storing_leaves_the_sandbox_and_its_memory(server, verb):
    """Much to store, and a kill while the first of it is on the disk and the last is not."""
    with sdk_client(server) as client:
        sandbox = client.sandboxes.create(timeout=3600)
        folder, place = ("/home/user", "disk") if verb == "stop" else ("/dev/shm", "memory")
        sh(sandbox, f"head -c 60000000 /dev/urandom >{folder}/much; sync", timeout=120)
        much = sh(sandbox, f"sha256sum {folder}/much", timeout=60)
        for _ in range(ATTEMPTS):
            leave_marks(sandbox, "kept")
            if killed_in_the_middle(server, sandbox, verb):
                break
            begin_anew(server, client, sandbox)
        else:
            pytest.fail(f"{ATTEMPTS} times the {verb} was over before the server stood still")
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


def killed_in_the_middle(server, sandbox, verb: str) -> bool:
    """Kills the server if an archive is half written when it stands still; otherwise lets it finish."""

    def ask() -> None:
        with api_client(server) as api:
            try:
                api.post(f"/v1/sandbox/{sandbox.id}/{verb}")
            except httpx.HTTPError:
                return

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until("it is being stored", lambda: checkpoints(server) or half_written(server), interval=0.002)
    server.process.send_signal(signal.SIGSTOP)
    wait_until("the server stands still", lambda: status(server.process.pid)["State"].startswith("T"), interval=0.002)
    in_the_middle = bool(half_written(server))
    if in_the_middle:
        server.kill9()
    else:
        server.process.send_signal(signal.SIGCONT)
    asking.join()
    return in_the_middle


def half_written(server) -> set[str]:
    """Archives of checkpoints that are not complete: those get their name last."""
    return {name for name in unfinished(server) if name.startswith(".ckp-")}


def begin_anew(server, client: Leap0Client, sandbox) -> None:
    """It runs again, and nothing is stored."""
    for snapshot in client.snapshots.list().items:
        client.snapshots.delete(snapshot)
    if client.sandboxes.get(sandbox.id).state == "stopped":
        start(server, sandbox.id)
    assert sh(sandbox, "echo awake") == "awake\n"
    wait_until("nothing is stored", lambda: not checkpoints(server) | unfinished(server))

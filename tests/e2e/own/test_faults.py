"""`kill -9` of the server and of VMMs: cases 42 and 43."""

import os
import random
import signal
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field

import httpx
import pytest

from lab import addresses, patience, wait_until
from lab.clients import api_client, sdk_client, web_client
from lab.footprint import vmm_pids
from lab.logs import events_since
from lab.sandboxes import machine_record, sh, start_app, state_of, vmm_pid
from lab.sdk import Leap0Client, Leap0ConflictError, Leap0Error

# Fewer and smaller storms for slow machines, more for soaks.
ROUNDS = int(os.environ.get("LEAPBOX_TEST_KILL_ROUNDS", "5"))
STORM_THREADS = int(os.environ.get("LEAPBOX_TEST_STORM_THREADS", "3"))
# Counts in the guest's memory over one connection to a server outside: the count ends with either.
HEARTBEAT = """
import os, socket
from time import sleep
server = socket.create_connection(("ADDRESS", PORT), 20)
beat = 0
while True:
    server.sendall(b"beat")
    if not server.recv(4):
        break
    beat += 1
    with open("/dev/shm/next", "w") as file:
        file.write(f"{beat}\\n")
    os.rename("/dev/shm/next", "/dev/shm/beat")
    sleep(0.2)
""".replace("ADDRESS", addresses.EXAMPLE_COM).replace("PORT", str(addresses.ECHO_PORT))


def beat_of(sandbox) -> int:
    """How far the guest's heartbeat has counted."""
    return int(sh(sandbox, "cat /dev/shm/beat"))


@pytest.mark.production_driver
def test_case_42_running_sandboxes_are_adopted_with_their_memory_and_connections_go_on(server):
    with sdk_client(server) as client:
        sandbox = client.sandboxes.create(timeout=600)
        pid = vmm_pid(server.data_dir, sandbox.id)
        sandbox.filesystem.write_file(path="/tmp/heartbeat.py", content=HEARTBEAT)
        sh(sandbox, "setsid python3 /tmp/heartbeat.py >/dev/null 2>&1 </dev/null &")
        with web_client(server) as web:
            url = start_app(sandbox, web)
        wait_until("the heart beats", lambda: beat_of(sandbox) > 0)
        for _ in range(2):
            before = beat_of(sandbox)
            events = events_since(server)
            server.kill9()
            server.start()
            # It serves before it has taken over what runs.
            wait_until("it is adopted", lambda events=events: events("adopted"))
            assert [event["sandbox"] for event in events("adopted")] == [sandbox.id]
            assert vmm_pid(server.data_dir, sandbox.id) == pid, "it is the same VM, not a new one"
            assert state_of(client, sandbox.id) == "running"
            after = beat_of(sandbox)
            assert after >= before
            wait_until("the heart goes on beating, over its connection", lambda after=after: beat_of(sandbox) > after)
            with web_client(server) as web:
                assert web.get(url).status_code == 200
        sandbox.delete()
        wait_until("its VMM is gone", lambda: pid not in vmm_pids())


def record_as(server, before: str, after: str) -> None:
    """Makes every machine's record one of another driver's."""
    with closing(sqlite3.connect(server.data_dir / "state" / "leapbox.db")) as database, database:
        database.execute("update sandbox set machine = replace(machine, ?, ?)", (f'"{before}"', f'"{after}"'))


def test_case_42_a_server_with_another_driver_refuses_to_start_over_living_sandboxes(server):
    with sdk_client(server) as client:
        sandbox = client.sandboxes.create(timeout=600)
        pid = vmm_pid(server.data_dir, sandbox.id)
        own = machine_record(server.data_dir, sandbox.id)["driver"]
        server.stop()
        record_as(server, own, "another")
        with pytest.raises(SystemExit):
            server.start()
        assert pid in vmm_pids(), "it was left alone"
        # Nothing else is changed, and it starts: the driver's name was the reason.
        record_as(server, "another", own)
        server.start()
        assert sh(sandbox, "echo unharmed") == "unharmed\n"
        sandbox.delete()


def test_case_42_timeouts_go_on_through_a_restart_and_expire_while_the_server_is_down(server):
    with sdk_client(server) as client:

        def times() -> dict[str, int]:
            return {item.id: item.timeout_at for item in client.sandboxes.list().items}

        long_lived = client.sandboxes.create(timeout=600)
        overdue = client.sandboxes.create(timeout=4)
        before = times()
        pid = vmm_pid(server.data_dir, overdue.id)
        server.kill9()
        assert pid in vmm_pids(), "its time was not up yet"
        wait_until("the overdue one's time is up", lambda: time.time() > before[overdue.id] + 1)
        assert pid in vmm_pids(), "nobody ends it but the server"
        server.start()
        wait_until("the overdue one is gone", lambda: state_of(client, overdue.id) == "unknown", timeout=15)
        wait_until("its VMM is gone, too", lambda: pid not in vmm_pids())
        # From this time alone the server makes its timer, for the overdue one as for any other.
        assert times() == {long_lived.id: before[long_lived.id]}, "its timeout was neither lost nor started anew"
        assert state_of(client, long_lived.id) == "running"


@dataclass
class Storm:
    """Threads that create and delete until the server dies, and what it had acknowledged by then."""

    client: Leap0Client
    created: set[str] = field(default_factory=set)
    delete_asked: set[str] = field(default_factory=set)
    delete_acknowledged: set[str] = field(default_factory=set)
    unexpected: list[BaseException] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def blow(self, dice: random.Random) -> None:
        """One thread's work."""
        while not self._stop.is_set():
            try:
                sandbox = self.client.sandboxes.create(timeout=900)
                self.created.add(sandbox.id)
                sh(sandbox, f"echo {sandbox.id} > /dev/shm/whoami")
                if dice.random() < 0.6:
                    self.delete_asked.add(sandbox.id)
                    sandbox.delete()
                    self.delete_acknowledged.add(sandbox.id)
            except Leap0Error as error:
                if error.status_code is not None and error.status_code != 503:
                    self.unexpected.append(error)
                if error.status_code is None:
                    return  # the connection broke: the server is dead
            except (httpx.HTTPError, AssertionError) as error:
                self.unexpected.append(error)
                return

    def stop(self) -> None:
        self._stop.set()


@pytest.mark.production_driver
@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_case_42_a_storm_of_creates_and_deletes_survives_kill_9_at_any_moment(server):
    seed = int(os.environ.get("LEAPBOX_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"LEAPBOX_TEST_SEED={seed}")
    dice = random.Random(seed)
    survivors: set[str] = set()
    with sdk_client(server) as client:
        for round_number in range(ROUNDS):
            storm = Storm(client)
            threads = [
                threading.Thread(target=storm.blow, args=(random.Random(dice.random()),)) for _ in range(STORM_THREADS)
            ]
            for thread in threads:
                thread.start()
            wait_for_the_moment(storm, dice)
            server.kill9()
            storm.stop()
            for thread in threads:
                thread.join()
            assert not storm.unexpected, f"round {round_number}, seed {seed}: {storm.unexpected}"
            server.start()
            check_after_the_storm(client, storm, survivors)
            survivors |= storm.created - storm.delete_asked
            while len(survivors) > 6:
                client.sandboxes.delete(survivors.pop())


def wait_for_the_moment(storm: Storm, dice: random.Random) -> None:
    """Until a random number of creates and at least one delete are acknowledged, and a random while more."""
    creates, more = dice.randint(1, 8), dice.uniform(0, 0.4)

    def enough() -> bool:
        return bool(storm.unexpected) or len(storm.created) >= creates and bool(storm.delete_acknowledged)

    wait_until("something was made and something deleted", enough, timeout=60, interval=0.01)
    moment = time.monotonic() + more
    wait_until("the moment to kill", lambda: time.monotonic() > moment, interval=0.01)


def check_after_the_storm(client: Leap0Client, storm: Storm, survivors: set[str]) -> None:
    for sandbox_id in storm.delete_acknowledged:
        assert state_of(client, sandbox_id) == "unknown", f"{sandbox_id} came back"
    for sandbox_id in survivors | storm.created - storm.delete_asked:
        assert state_of(client, sandbox_id) == "running", f"{sandbox_id} had been acknowledged and is lost"
        assert sh(client.sandboxes.get(sandbox_id), "cat /dev/shm/whoami || true") in (f"{sandbox_id}\n", "")

    def nothing_is_half_made() -> bool:
        listed = client.sandboxes.list(page_size=100).items
        states = {item.id: str(getattr(item.state, "value", item.state)) for item in listed}
        assert set(states.values()) <= {"running", "deleted"}, states
        return True

    wait_until("half-made and half-deleted ones are settled", nothing_is_half_made, timeout=30)
    known = {item.id for item in client.sandboxes.list(page_size=100, state="running").items}
    for sandbox_id in known - survivors - storm.created:
        # Made, but its answer never reached the client: it must be whole all the same, and deletable.
        sandbox = client.sandboxes.get(sandbox_id)
        assert sh(sandbox, "echo whole") == "whole\n"
        sandbox.delete()


@pytest.mark.production_driver
@pytest.mark.thorough
def test_case_42_a_kill_during_the_very_first_create_leaves_nothing_half_made(server):
    with sdk_client(server) as client:
        wait_until("the pool is full, and boots nothing", lambda: server.metric("pool_ready") == 1, timeout=120)
        before = vmm_pids()
        errors: list[Exception] = []

        def create() -> None:
            try:
                client.sandboxes.create(memory=1536)  # a shape that must be booted and snapshotted first
            except (Leap0Error, httpx.HTTPError) as error:
                errors.append(error)

        unfinished = server.data_dir / "state" / "warm" / ".warm"
        creating = threading.Thread(target=create)
        creating.start()
        wait_until(
            "the first VMM of the new shape runs", lambda: unfinished.is_dir() and vmm_pids() - before, interval=0.01
        )
        server.kill9()
        creating.join()
        assert errors and unfinished.is_dir(), "it was killed in the middle"
        half_made = vmm_pids() - before
        server.start()
        assert not unfinished.exists()
        wait_until("no VMM of it is left", lambda: not half_made & vmm_pids())
        sandbox = client.sandboxes.create(memory=1536)
        assert sh(sandbox, "echo works") == "works\n"
        sandbox.delete()


def end_told_of(events, sandbox_id: str) -> str:
    """How the log says that its machine ended, once it does."""
    failed = wait_until("the end is logged", lambda: events("sandbox_failed"))
    assert [event["sandbox"] for event in failed] == [sandbox_id]
    return failed[0]["exit"]


def test_case_43_a_killed_vmm_is_reported_with_its_reason_and_its_neighbours_go_on(server):
    with sdk_client(server) as client, web_client(server) as web, api_client(server) as api:
        victim, neighbour = (client.sandboxes.create(timeout=600) for _ in range(2))
        url = start_app(victim, web)
        pid = vmm_pid(server.data_dir, victim.id)
        events = events_since(server)
        os.kill(pid, signal.SIGKILL)

        def told() -> dict | None:
            shown = api.get(f"/v1/sandbox/{victim.id}").json()
            return shown if shown["state"] == "deleted" else None

        seen = wait_until("the death is reported", told, timeout=5)
        assert seen["state_reason"], seen
        assert end_told_of(events, victim.id) == "signalled"
        with pytest.raises(Leap0ConflictError):
            victim.process.execute(command="true")
        assert web.get(url).status_code == 409
        assert sh(neighbour, "echo fine") == "fine\n"
        replacement = client.sandboxes.create()
        assert sh(replacement, "echo fine too") == "fine too\n"
        victim.delete()
        assert pid not in vmm_pids()


def test_case_43_a_request_that_was_running_in_a_killed_vmm_fails_at_once(server):
    with sdk_client(server) as client:
        victim = client.sandboxes.create(timeout=600)
        pid = vmm_pid(server.data_dir, victim.id)
        ended: list[tuple[float, int | None]] = []

        def run() -> None:
            with pytest.raises(Leap0Error) as broken_off:
                victim.process.execute(command="sleep 120", timeout=120)
            ended.append((time.monotonic(), broken_off.value.status_code))

        running = threading.Thread(target=run)
        running.start()
        wait_until("the command runs", lambda: sh(victim, "pgrep -x sleep || true"))
        killed_at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        running.join(patience(20))
        ((failed_at, status),) = ended
        assert failed_at - killed_at < patience(5)
        assert status in (409, 502), "the server told it"


@pytest.mark.parametrize("key", [pytest.param("b", id="reset"), "o"])
def test_case_43_a_guest_that_ends_itself_is_reported_too(server, key):
    with sdk_client(server) as client:
        sandbox = client.sandboxes.create(timeout=600)
        pid = vmm_pid(server.data_dir, sandbox.id)
        events = events_since(server)
        try:
            end = f"echo 1 > /proc/sys/kernel/sysrq; echo {key} > /proc/sysrq-trigger"
            sandbox.process.execute(command=f"sudo sh -c '{end}'", timeout=10)
        except Leap0Error:
            pass  # it may well take its own answer with it
        wait_until("the end is reported", lambda: state_of(client, sandbox.id) == "deleted", timeout=30)
        assert end_told_of(events, sandbox.id) == "guest_shutdown"
        wait_until("its VMM is gone", lambda: pid not in vmm_pids(), timeout=10)
        sandbox.delete()

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

from lab import patience, wait_until
from lab.clients import sdk_client, web_client
from lab.footprint import vmm_pids
from lab.sandboxes import machine_record, sh, start_app, state_of, vmm_pid
from lab.sdk import Leap0Client, Leap0ConflictError, Leap0Error

# Fewer and smaller storms for slow machines, more for soaks.
ROUNDS = int(os.environ.get("LEAPBOX_TEST_KILL_ROUNDS", "5"))
STORM_THREADS = int(os.environ.get("LEAPBOX_TEST_STORM_THREADS", "3"))
HEARTBEAT = "n=0; while :; do n=$((n+1)); echo $n > /dev/shm/beat; sleep 0.2; done"
GONE = ("unknown", "deleted")


@pytest.mark.production_driver
def test_case_42_running_sandboxes_are_adopted_with_their_memory_and_connections_go_on(server):
    with sdk_client(server) as client:
        sandbox = client.sandboxes.create(timeout=600)
        pid = vmm_pid(server.data_dir, sandbox.id)
        sh(sandbox, f"setsid sh -c '{HEARTBEAT}' >/dev/null 2>&1 </dev/null &")
        with web_client(server) as web:
            url = start_app(sandbox, web)
        wait_until("the heart beats", lambda: int(sh(sandbox, "cat /dev/shm/beat")) > 0)
        for _ in range(2):
            before = int(sh(sandbox, "cat /dev/shm/beat"))
            server.kill9()
            server.start()
            assert vmm_pid(server.data_dir, sandbox.id) == pid, "it is the same VM, not a new one"
            assert state_of(client, sandbox.id) == "running"
            wait_until("the heart went on beating", lambda: int(sh(sandbox, "cat /dev/shm/beat")) > before)
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
        with pytest.raises(SystemExit, match=r"1 sandbox\(es\) still run with another, and this server would use"):
            server.start()
        assert pid in vmm_pids(), "it was left alone"
        record_as(server, "another", own)
        server.start()
        assert sh(sandbox, "echo unharmed") == "unharmed\n"
        sandbox.delete()


def test_case_42_timeouts_go_on_through_a_restart_and_expire_while_the_server_is_down(server):
    with sdk_client(server) as client:
        long_lived = client.sandboxes.create(timeout=600)
        short = client.sandboxes.create(timeout=12)
        overdue = client.sandboxes.create(timeout=1)
        born = time.monotonic()
        server.kill9()
        wait_until("the overdue one's time is up", lambda: time.monotonic() - born > 1.5)
        server.start()
        wait_until("the overdue one is gone", lambda: state_of(client, overdue.id) in GONE, timeout=15)
        assert state_of(client, short.id) == "running" or time.monotonic() - born >= 11
        wait_until("the short-lived one is gone", lambda: state_of(client, short.id) in GONE, timeout=30)
        assert 11 <= time.monotonic() - born < 25, "its timeout was neither lost nor started anew"
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
            deadline = time.monotonic() + patience(dice.uniform(0.2, 4.0))
            wait_until("the moment to kill", lambda: time.monotonic() > deadline, interval=0.01)
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


def check_after_the_storm(client: Leap0Client, storm: Storm, survivors: set[str]) -> None:
    for sandbox_id in storm.delete_acknowledged:
        assert state_of(client, sandbox_id) in GONE, f"{sandbox_id} came back"
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
        errors: list[Exception] = []

        def create() -> None:
            try:
                client.sandboxes.create(memory=1536)  # a shape that must be booted and snapshotted first
            except (Leap0Error, httpx.HTTPError) as error:
                errors.append(error)

        creating = threading.Thread(target=create)
        before = vmm_pids()
        creating.start()
        wait_until("the first VMM of the new shape runs", lambda: vmm_pids() - before, interval=0.01)
        server.kill9()
        creating.join()
        server.start()
        sandbox = client.sandboxes.create(memory=1536)
        assert sh(sandbox, "echo works") == "works\n"
        sandbox.delete()


@pytest.mark.production_driver
def test_case_43_a_killed_vmm_is_reported_with_its_reason_and_its_neighbours_go_on(server):
    with sdk_client(server) as client, web_client(server) as web:
        victim, neighbour = (client.sandboxes.create(timeout=600) for _ in range(2))
        url = start_app(victim, web)
        pid = vmm_pid(server.data_dir, victim.id)
        os.kill(pid, signal.SIGKILL)

        def raw_get() -> dict:
            headers = {"authorization": server.env()["LEAP0_API_KEY"]}
            return httpx.get(f"http://{server.api_address}/v1/sandbox/{victim.id}", headers=headers).json()

        killed_at = time.monotonic()
        seen = wait_until("the death is reported", lambda: (got := raw_get())["state"] == "deleted" and got, timeout=10)
        assert time.monotonic() - killed_at < patience(5)
        assert seen["state_reason"], seen
        with pytest.raises(Leap0ConflictError) as refusal:
            victim.process.execute(command="true")
        assert seen["state_reason"] in str(refusal.value) or "killed" in str(refusal.value)
        assert web.get(url).status_code in (404, 409, 410, 502, 503)
        assert sh(neighbour, "echo fine") == "fine\n"
        replacement = client.sandboxes.create()
        assert sh(replacement, "echo fine too") == "fine too\n"
        victim.delete()
        assert pid not in vmm_pids()


def test_case_43_a_request_that_was_running_in_a_killed_vmm_fails_at_once(server):
    with sdk_client(server) as client:
        victim = client.sandboxes.create(timeout=600)
        pid = vmm_pid(server.data_dir, victim.id)
        started = threading.Event()
        failed_after: list[float] = []

        def run() -> None:
            started.set()
            begun = time.monotonic()
            with pytest.raises(Leap0Error):
                victim.process.execute(command="sleep 120", timeout=120)
            failed_after.append(time.monotonic() - begun)

        running = threading.Thread(target=run)
        running.start()
        started.wait(patience(5))
        wait_until("the command runs", lambda: "sleep" in sh(victim, "pgrep -a sleep || true"))
        os.kill(pid, signal.SIGKILL)
        running.join(patience(20))
        assert failed_after and failed_after[0] < patience(60)


@pytest.mark.parametrize("key", [pytest.param("b", id="reset", marks=pytest.mark.production_driver), "o"])
def test_case_43_a_guest_that_ends_itself_is_reported_too(server, key):
    with sdk_client(server) as client:
        sandbox = client.sandboxes.create(timeout=600)
        pid = vmm_pid(server.data_dir, sandbox.id)
        try:
            end = f"echo 1 > /proc/sys/kernel/sysrq; echo {key} > /proc/sysrq-trigger"
            sandbox.process.execute(command=f"sudo sh -c '{end}'", timeout=10)
        except Leap0Error:
            pass  # it may well take its own answer with it
        wait_until("the end is reported", lambda: state_of(client, sandbox.id) == "deleted", timeout=30)
        wait_until("its VMM is gone", lambda: pid not in vmm_pids(), timeout=10)
        sandbox.delete()

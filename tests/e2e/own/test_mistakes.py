"""An operator's mistakes and a host that stalls: nothing acknowledged is lost, or the server refuses with a way out.

Each test makes one mistake on a server with sandboxes, sees what the server says or does, mends the mistake, and finds
the sandboxes as they were.
"""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from lab import current, wait_until
from lab.clients import sdk_client
from lab.footprint import vmm_pids, vmm_pids_of
from lab.logs import events_since
from lab.sandboxes import all_marks, leave_marks, machine_record, marks, sh, state_of, vmm_pid
from lab.sdk import Leap0Error
from lab.stored import checkpoints

SETTINGS = {"LEAPBOX_POOL_SIZE": "0", "LEAPBOX_GARBAGE_GRACE_DAYS": "7"}
# How many sandboxes of how many whose VMM is stopped; more for soaks.
MANY = int(os.environ.get("LEAPBOX_TEST_ADOPTED", "4"))
STOPPED = max(1, MANY // 10)
# Rounds of random mistakes, and the seed of the first one.
ROUNDS = int(os.environ.get("LEAPBOX_TEST_MISTAKES", "4"))
SEED = int(os.environ.get("LEAPBOX_TEST_MISTAKES_SEED", str(random.randrange(1 << 32))))


def state(server) -> Path:
    return server.data_dir / "state"


def copy_database(server) -> Path:
    """A backup of the database, as an operator makes one while the server runs."""
    copy = current().run_dir / f"{server.data_dir.name}-backup.db"
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(state(server) / "leapbox.db")) as database, closing(sqlite3.connect(copy)) as backup:
        database.backup(backup)
    return copy


@contextmanager
def exchanged_database(server, copy: Path | None) -> Iterator[None]:
    """The database of a server that does not run is another one (none: it is lost) within the `with`."""
    aside = current().run_dir / f"{server.data_dir.name}-aside"
    aside.mkdir()
    for file in state(server).glob("leapbox.db*"):
        shutil.move(file, aside / file.name)
    if copy:
        shutil.copy(copy, state(server) / "leapbox.db")
    try:
        yield
    finally:
        server.stop()
        for file in state(server).glob("leapbox.db*"):
            file.unlink()
        for file in aside.iterdir():
            shutil.move(file, state(server) / file.name)
        aside.rmdir()


@contextmanager
def moved(path: Path) -> Iterator[Path]:
    """The file or folder is somewhere else within the `with`."""
    elsewhere = path.with_name(f"{path.name}-elsewhere")
    path.rename(elsewhere)
    try:
        yield elsewhere
    finally:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        elsewhere.rename(path)


def created(client, count: int = 1) -> list:
    sandboxes = [client.sandboxes.create(timeout=3600) for _ in range(count)]
    for sandbox in sandboxes:
        leave_marks(sandbox, sandbox.id)
    return sandboxes


def assert_unharmed(sandboxes) -> None:
    for sandbox in sandboxes:
        assert marks(sandbox) == all_marks(sandbox.id)


def test_limits_that_shrink_apply_to_what_is_new(server):
    """F5: slots whose index is beyond the new limit are adopted like all others."""
    with sdk_client(server) as client:
        # The index of a slot is used once in turn, so after these the next ones are beyond a limit of 1 + 16.
        for _ in range(18):
            client.sandboxes.create(timeout=3600).delete()
        sandboxes = created(client, 3)
        with server.settings(max_sandboxes="1"):
            server.restart()
            assert_unharmed(sandboxes)
            with pytest.raises(Leap0Error) as full:
                client.sandboxes.create()
            assert full.value.status_code == 503
        server.restart()
        assert_unharmed(sandboxes)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("link_block", "10.99.0.0/16"), ("base_uid", "3000000")],
)
def test_settings_that_do_not_fit_what_runs_are_refused_before_anything_is_touched(server, setting, value):
    with sdk_client(server) as client:
        (sandbox,) = created(client)
        pid = vmm_pid(server.data_dir, sandbox.id)
        server.stop()
        with server.settings(**{setting: value}):
            told = server.refuses_to_start()
        assert sandbox.id in told and setting in told and f"kill -9 {pid}" in told, told
        server.start()
        assert_unharmed([sandbox])


def test_a_data_folder_that_was_moved_under_what_runs_is_refused_and_moved_back(server):
    with sdk_client(server) as client:
        (sandbox,) = created(client)
        server.stop()
        record = machine_record(server.data_dir, sandbox.id)
        with moved(server.data_dir) as elsewhere:
            server.data_dir, before = elsewhere, server.data_dir
            try:
                with server.settings(data_dir=str(elsewhere)):
                    told = server.refuses_to_start()
            finally:
                server.data_dir = before
        assert sandbox.id in told and record["dir"] in told, told
        server.start()
        assert_unharmed([sandbox])


def test_an_older_database_is_refused_and_nothing_of_what_is_newer_is_lost(server):
    """F7, with a paused sandbox."""
    with sdk_client(server) as client:
        old, new = created(client, 2)
        old.pause()
        copy = copy_database(server)
        new.pause()
        stored = checkpoints(server)
        server.stop()
        with exchanged_database(server, copy):
            told = server.refuses_to_start()
            assert "older" in told and "--accept-older-database" in told, told
        assert checkpoints(server) == stored
        server.start()
        assert_unharmed([old, new])


def test_an_older_database_that_is_accepted_sets_aside_what_it_does_not_know(server):
    with sdk_client(server) as client:
        old, new = created(client, 2)
        old.pause()
        copy = copy_database(server)
        new.pause()
        stored = checkpoints(server)
        server.stop()
        with exchanged_database(server, copy):
            events = events_since(server)
            server.start("--accept-older-database")
            assert_unharmed([old])
            # The copy says that it ran, and its machine has ended since.
            assert state_of(client, new.id) == "deleted"
            wait_until("the sweep has been", lambda: events("set_aside"))
            shown = json.loads(server.command("gc", "--json"))
            unknown = {one["name"] for one in shown["set_aside"]}
            assert unknown and unknown < stored, shown
            old.delete()
        assert unknown <= checkpoints(server)
        server.start()
        assert_unharmed([new])


def test_an_older_database_does_not_end_machines_that_run(server):
    """F7, with a running sandbox: no checkpoint is newer than the database."""
    with sdk_client(server) as client:
        copy = copy_database(server)
        (sandbox,) = created(client)
        pid = vmm_pid(server.data_dir, sandbox.id)
        server.stop()
        with exchanged_database(server, copy):
            told = server.refuses_to_start()
            assert sandbox.id in told and "--accept-older-database" in told, told
            server.start("--accept-older-database")
            assert pid in vmm_pids(), "it is left alone"
            shown = json.loads(server.command("gc", "--json"))
            assert [one["kind"] for one in shown["set_aside"]] == ["machine"], shown
        assert pid in vmm_pids()
        server.start()
        assert_unharmed([sandbox])


def test_a_lost_database_is_refused_and_set_up_does_not_hide_it(server):
    with sdk_client(server) as client:
        (sandbox,) = created(client)
        sandbox.pause()
        server.stop()
        key = (state(server) / "keys" / "default.key").read_text()
        with exchanged_database(server, None):
            server.setup()
            told = server.refuses_to_start()
            assert "another database" in told, told
        (state(server) / "keys" / "default.key").write_text(key)
        server.start()
        assert_unharmed([sandbox])


def test_a_lost_or_another_server_key_is_refused_and_never_made_anew(server):
    """F6."""
    key = state(server) / "keys" / "server.key"
    with sdk_client(server) as client:
        (sandbox,) = created(client)
        sandbox.pause()
        server.stop()
        with moved(key):
            told = server.refuses_to_start()
            assert str(key) in told and "backup" in told and "--accept-other-key" in told, told
            assert not key.exists(), "none was made"
            key.write_bytes(os.urandom(32))
            key.chmod(0o600)
            told = server.refuses_to_start()
            assert "another" in told and "--accept-other-key" in told, told
            server.start("--accept-other-key")
            with pytest.raises(Leap0Error) as refused:
                sh(sandbox, "true")
            assert refused.value.status_code == 409
            server.stop()
        server.start("--accept-other-key")
        assert_unharmed([sandbox])


def test_a_lost_instance_is_known_from_the_database_and_another_one_is_refused(server):
    """F40."""
    instance = state(server) / "instance"
    with sdk_client(server) as client:
        (sandbox,) = created(client)
        server.stop()
        text = instance.read_text()
        instance.unlink()
        server.start()
        assert instance.read_text() == text
        assert_unharmed([sandbox])
        server.stop()
        instance.write_text("0000" if text != "0000" else "0001")
        assert str(instance) in server.refuses_to_start()
        instance.write_text(text)
        server.start()
        assert_unharmed([sandbox])


def test_another_domain_is_refused_until_its_certificate_is_made(server):
    server.stop()
    with server.settings(domain="other.example.com"):
        assert "leapbox setup" in server.refuses_to_start()
    server.start()


def test_templates_that_are_missing_at_a_restart_are_told_and_nothing_is_lost(server):
    with sdk_client(server) as client:
        running, paused = created(client, 2)
        paused.pause()
        server.stop()
        empty = current().run_dir / "no-artifacts"
        empty.mkdir()
        with server.settings(artifacts_dir=str(empty)):
            assert "leapbox setup" in server.refuses_to_start()
        server.start()
        assert_unharmed([running, paused])


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """The processes get no time within the `with`, as on a host that swaps or was suspended."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.timeout(300)
def test_a_restart_waits_for_no_machine_that_does_not_answer(server):
    """F19: the API serves at once, each sandbox at its first request, and those that stand still once they go on."""
    with sdk_client(server) as client:
        sandboxes = created(client, MANY)
        still, lively = sandboxes[:STOPPED], sandboxes[STOPPED:]
        server.stop()
        with stopped(*(vmm_pid(server.data_dir, sandbox.id) for sandbox in still)):
            began = time.monotonic()
            server.start()
            served = time.monotonic() - began
            assert_unharmed(lively)
            assert [state_of(client, sandbox.id) for sandbox in still] == ["running"] * STOPPED
        print(f"served after {served:.2f} s, over {MANY} machines of which {STOPPED} stand still")
        assert_unharmed(still)


@pytest.mark.timeout(300)
def test_a_machine_that_stood_still_goes_on_with_its_control_connection_in_step(server):
    """F8, the part that shows within half a minute; the rest is in crates/vmm."""
    with sdk_client(server) as client:
        (sandbox,) = created(client)
        with stopped(vmm_pid(server.data_dir, sandbox.id)), pytest.raises((Leap0Error, httpx.HTTPError)):
            # Its CPUs cannot be stopped for the pause within the deadline of twenty seconds.
            client.sandboxes.pause(sandbox.id)
        wait_until("it runs again", lambda: state_of(client, sandbox.id) == "running", timeout=60)
        assert_unharmed([sandbox])
        sandbox.pause()
        assert_unharmed([sandbox])


def test_an_nft_that_fails_while_a_policy_is_installed_again_is_tried_again(server):
    """F5: a machine is not lost by it, and its sandbox is taken over by the next attempt."""
    folder = current().run_dir / "failing"
    folder.mkdir()
    failing = folder / "nft"
    failing.write_text(
        "#!/bin/sh\ninput=$(cat)\n"
        f'case "$input" in *"flush set inet leapbox direct"*) mkdir {folder}/failed 2>/dev/null && exit 1;; esac\n'
        f'printf "%s\\n" "$input" | {shutil.which("nft")} "$@"\n'
    )
    failing.chmod(0o755)
    with sdk_client(server) as client:
        (sandbox,) = created(client)
        server.stop()
        events = events_since(server)
        with server.path_before(folder):
            server.start()
        assert_unharmed([sandbox])
        assert (folder / "failed").is_dir() and events("adoption_delayed"), "it has failed once"


def test_a_sandbox_that_waits_to_be_stored_can_be_deleted(server):
    """F18: the machines of four others stand still while they are stored, and so all four permits are taken."""
    with sdk_client(server) as client:
        *others, sandbox = created(client, 5)
        with stopped(*(vmm_pid(server.data_dir, other.id) for other in others)):
            pauses = [threading.Thread(target=pause_quietly, args=(client, one)) for one in (*others, sandbox)]
            for number, pause in enumerate(pauses):
                pause.start()
                if number == len(others) - 1:
                    wait_until(
                        "all permits are taken",
                        lambda: all(state_of(client, other.id) == "snapshotting" for other in others),
                    )
            began = time.monotonic()
            sandbox.delete()
            assert time.monotonic() - began < 10
            assert state_of(client, sandbox.id) == "unknown"
        for pause in pauses:
            pause.join()


def pause_quietly(client, sandbox) -> None:
    try:
        client.sandboxes.pause(sandbox.id)
    except (Leap0Error, httpx.HTTPError):
        pass


def test_rules_that_the_host_flushes_are_put_back_within_seconds(server):
    with sdk_client(server) as client:
        (sandbox,) = created(client)
        events = events_since(server)
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        wait_until("the rules are back", lambda: events("host_rules_restored"), timeout=5)
        assert_unharmed([sandbox])
        table = f"leapbox_{(state(server) / 'instance').read_text().strip()}"
        listed = subprocess.run(["nft", "list", "table", "inet", table], capture_output=True, text=True, check=True)
        assert "masquerade" in listed.stdout


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

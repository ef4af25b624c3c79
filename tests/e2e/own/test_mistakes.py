"""An operator's mistakes and a host that stalls: nothing acknowledged is lost, or the server refuses with a way out.

Each test makes one mistake on a server with sandboxes, sees what the server says or does, mends the mistake, and finds
the sandboxes as they were.
"""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from e2e.own.mistakes import assert_unharmed, copy_database, created, exchanged_database, moved, state
from lab import current, wait_until
from lab.clients import api_client, sdk_client
from lab.footprint import vmm_pids
from lab.logs import events_since
from lab.sandboxes import machine_record, marks, sh, state_of, vmm_pid
from lab.sdk import Leap0Error
from lab.server import ARTIFACTS
from lab.stored import checkpoints

SETTINGS = {"LEAPBOX_POOL_SIZE": "0", "LEAPBOX_GARBAGE_GRACE_DAYS": "7"}
# How many sandboxes of how many whose VMM is stopped; more for soaks.
MANY = int(os.environ.get("LEAPBOX_TEST_ADOPTED", "4"))
STOPPED = max(1, MANY // 10)


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


def test_templates_that_are_removed_under_a_running_server_are_told_and_can_be_put_back(server):
    """What runs goes on; what needs the image is refused until it is there again, without a restart."""
    artifacts = current().run_dir / "artifacts"
    subprocess.run(["cp", "-a", "--reflink=auto", ARTIFACTS, artifacts], check=True)
    with sdk_client(server) as client, api_client(server) as api:
        running, paused, stopped = created(client, 3)
        server.stop()
        with server.settings(artifacts_dir=str(artifacts)):
            server.start()
            paused.pause()
            assert api.post(f"/v1/sandbox/{stopped.id}/stop").status_code == 200
            with moved(artifacts):
                assert_unharmed([running])
                for ask in (client.sandboxes.create, lambda: sh(paused, "true"), running.pause):
                    told_or_done(ask)
                answer = api.post(f"/v1/sandbox/{stopped.id}/start")
                assert answer.status_code in (200, 409, 503), answer.text
            assert_unharmed([running, paused])
            if answer.status_code != 200:
                assert api.post(f"/v1/sandbox/{stopped.id}/start").status_code == 200
            assert marks(stopped)["disk"] == stopped.id
        server.restart()
        assert_unharmed([running, paused])
    shutil.rmtree(artifacts)


def told_or_done(ask) -> None:
    """It works, or is refused with a sentence for the operator: not with a 500."""
    try:
        ask()
    except Leap0Error as refusal:
        print(refusal)
        assert refusal.status_code in (409, 503), refusal


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
        with server.environment(PATH=f"{folder}:{os.environ['PATH']}"):
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

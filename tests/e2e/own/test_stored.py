"""Stored sandboxes that were damaged, exchanged or made elsewhere are refused and stay: cases 39, 40, 41 and 46."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import wait_until
from lab.clients import api_client, sdk_client, web_client
from lab.footprint import memory_of, pieces
from lab.logs import events_since
from lab.sandboxes import all_marks, leave_marks, marks, sh, start_app, state_of, vmm_pid
from lab.sdk import Leap0Error
from lab.stored import archives, checkpoints, cut_the_end_off, damaged, files_of, flip_a_bit

# In turn: crates/storage/src/archive/tests/damage.rs has each of them in every file.
DAMAGES = (flip_a_bit, cut_the_end_off)


def pause_into_archive(server, sandbox) -> Path:
    """Pauses it; returns the archive that this made."""
    before = checkpoints(server)
    sandbox.pause()
    (made,) = checkpoints(server) - before
    return archives(server) / made


def assert_wake_refused(server, sandbox, about: str) -> None:
    """A request is told why, at once, and the sandbox is as it was.

    `about` is a path, an id or a key: among all the reasons there are, only the one that is meant tells it to the
    operator. The client is told nothing of the host's folders.
    """
    events = events_since(server)
    with pytest.raises(Leap0Error) as refusal:
        sandbox.process.execute(command="true")
    assert refusal.value.status_code == 409, refusal.value
    assert str(server.data_dir) not in str(refusal.value)
    with api_client(server) as api:
        shown = api.get(f"/v1/sandbox/{sandbox.id}").json()
    assert shown["state"] == "paused" and shown["state_reason"], shown
    (failed,) = events("wake_failed")
    assert failed["sandbox"] == sandbox.id
    assert about in failed["error"], failed


def test_case_39_damage_in_any_file_of_a_paused_sandbox_is_refused_and_what_is_repaired_wakes(server):
    with sdk_client(server) as client:
        sandbox = client.sandboxes.create(timeout=3600)
        leave_marks(sandbox, "kept")
        archive = pause_into_archive(server, sandbox)
        files = files_of(archive)
        assert len(files) >= 4, f"memory, state, disk and manifest: {files}"
        for number, file in enumerate(files):
            with damaged(file, DAMAGES[number % 2]):
                assert_wake_refused(server, sandbox, f"{archive.name}/{file.name}")
        assert marks(sandbox) == all_marks("kept")
        sandbox.delete()


def test_case_39_damage_in_a_snapshot_is_refused_at_its_restore_and_nothing_is_left_of_it(server):
    with sdk_client(server) as client:
        sandbox = client.sandboxes.create()
        leave_marks(sandbox, "kept")
        before = checkpoints(server)
        snapshot = sandbox.create_snapshot(name="fragile", kill_sandbox_after=True)
        (archive,) = checkpoints(server) - before
        others = client.sandboxes.list().total_items
        for number, file in enumerate(files_of(archives(server) / archive)):
            events = events_since(server)
            with damaged(file, DAMAGES[1 - number % 2]), pytest.raises(Leap0Error) as refusal:
                client.snapshots.restore(snapshot_name="fragile")
            assert refusal.value.status_code == 409, refusal.value
            (unusable,) = events("checkpoint_unusable")
            assert f"{archive}/{file.name}" in unusable["error"]
            assert client.sandboxes.list().total_items == others, "no half-made sandbox is shown"
        restored = client.snapshots.restore(snapshot_name="fragile")
        assert marks(restored) == all_marks("kept")
        restored.delete()
        client.snapshots.delete(snapshot)


def test_case_46_a_paused_sandbox_that_cannot_be_woken_can_be_deleted(server):
    with sdk_client(server) as client:
        for how in ("damaged", "lost"):
            sandbox = client.sandboxes.create(timeout=3600)
            archive = pause_into_archive(server, sandbox)
            if how == "damaged":
                largest = max(files_of(archive), key=lambda file: file.stat().st_size)
                flip_a_bit(largest)
                assert_wake_refused(server, sandbox, f"{archive.name}/{largest.name}")
            else:
                shutil.rmtree(archive)
                assert_wake_refused(server, sandbox, archive.name)
            sandbox.delete()
            assert state_of(client, sandbox.id) == "unknown"
            wait_until("its archive is gone", lambda: not archive.exists())


def test_case_40_one_sandboxs_state_in_anothers_place_is_refused(server):
    with sdk_client(server) as client:
        sandboxes = [client.sandboxes.create(timeout=3600) for _ in range(2)]
        first, second = (pause_into_archive(server, sandbox) for sandbox in sandboxes)
        aside = first.with_name(".aside")
        for source, place in ((first, aside), (second, first), (aside, second)):
            source.rename(place)
        for sandbox, own in zip(sandboxes, (first, second), strict=True):
            assert_wake_refused(server, sandbox, own.name)
        for source, place in ((first, aside), (second, first), (aside, second)):
            source.rename(place)
        for sandbox in sandboxes:
            assert sh(sandbox, "echo awake") == "awake\n"
            sandbox.delete()


def bases(server) -> list[dict]:
    """What the manifests of the stored bases begin with."""
    manifests = (server.data_dir / "state" / "warm").glob("[!.]*/manifest.json")
    return [json.loads(manifest.read_text())["content"]["header"] for manifest in manifests]


def test_case_40_a_sandbox_whose_host_has_changed_is_refused_by_its_compatibility_and_wakes_where_it_fits(server):
    """Under QEMU a snapshot fits one TSC rate: the server is made to believe that this host has another."""
    rate = server.data_dir / "state" / "qemu" / "tsc-khz"
    if not rate.exists():
        pytest.skip("this driver's key is made of what cannot be changed here: CPU, microcode and kernel")
    with sdk_client(server) as client:
        sandbox = client.sandboxes.create(timeout=3600)
        leave_marks(sandbox, "kept")
        sandbox.pause()
        keys = [base["compatibility_key"] for base in bases(server)]
        server.stop()
        truth = rate.read_text()
        # Near enough to what the server measures at its start to be believed, and not what the sandbox was stored with.
        other = f"{int(truth) + int(truth) // 4000}\n"
        rate.write_text(other)
        server.start()
        assert rate.read_text() == other, "the server believes it"
        # The beginning of the key that it was stored with.
        assert_wake_refused(server, sandbox, keys[0][:12])
        server.stop()
        rate.write_text(truth)
        server.start()
        assert marks(sandbox) == all_marks("kept")
        sandbox.delete()


def content_of(path: Path) -> Iterator[bytes]:
    """Everything that is in a file, without its holes."""
    with path.open("rb", buffering=0) as file:
        end = 0
        while True:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            yield from pieces(file.fileno(), start, end)


def test_case_41_no_secret_of_the_platform_is_in_the_guest_or_in_what_is_stored_of_it(server):
    key = server.env()["LEAP0_API_KEY"].encode()
    secret = b"hunter2-which-only-the-guest-may-know"
    with sdk_client(server) as client, web_client(server) as web:
        sandbox = client.sandboxes.create(timeout=3600, env_vars={"PASSWORD": secret.decode()})
        url = start_app(sandbox, web)
        passed_on = web.get(f"{url}/headers")
        assert passed_on.status_code == 200 and key.decode() not in passed_on.text
        assert sh(sandbox, 'echo "$PASSWORD"').encode().strip() == secret
        platforms = {"API key": key, "key hash's source": key.removeprefix(b"lbx_")}
        platforms |= {file.name: file.read_bytes() for file in server.data_dir.rglob("*.key") if "tls" in str(file)}
        platforms |= {f"archive {file.name}": file.read_bytes() for file in server_keys(server)}
        found_guest = {"password": False}
        for piece in memory_of(vmm_pid(server.data_dir, sandbox.id)):
            found_guest["password"] |= secret in piece
            for name, value in platforms.items():
                assert value not in piece, f"the {name} is in the guest's memory"
        assert found_guest["password"], "the search finds what is there"
        sandbox.pause()
        stored = [file for file in (server.data_dir / "state").rglob("*") if file.is_file() and not file.is_symlink()]
        for file in stored:
            for piece in content_of(file):
                assert secret not in piece, f"{file} has the guest's environment readable"
                for name, value in platforms.items() if archives(server) in file.parents else ():
                    assert value not in piece, f"the {name} is in {file}"
        assert sh(sandbox, 'echo "$PASSWORD"').encode().strip() == secret
        sandbox.delete()


def server_keys(server) -> list[Path]:
    """Files of 32 bytes that are secret: the key archives are encrypted with."""
    state = server.data_dir / "state"
    keys = [file for file in state.rglob("*") if file.is_file() and file.stat().st_size == 32]
    assert keys, "the server's own key is somewhere"
    for file in keys:
        assert file.stat().st_mode & 0o077 == 0, f"{file} is open to others"
    return keys

"""Stored sandboxes that were damaged, exchanged or made elsewhere are refused and stay: cases 39, 40, 41 and 46."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.conftest import running_server
from lab import Server, current, wait_until
from lab.clients import api_client, delete_all, sdk_client, web_client
from lab.sandboxes import all_marks, leave_marks, marks, sh, start_app, state_of, vmm_pid
from lab.sdk import Leap0Error
from lab.stored import archives, checkpoints, cut_the_end_off, damaged, files_of, flip_a_bit, log_since

DAMAGES = {"flipped": flip_a_bit, "cut": cut_the_end_off}


@pytest.fixture(scope="module")
def house():
    """One server for all of these."""
    with running_server("stored") as made:
        yield made


def pause_into_archive(server, sandbox) -> Path:
    """Pauses it; returns the archive that this made."""
    before = checkpoints(server)
    sandbox.pause()
    (made,) = checkpoints(server) - before
    return archives(server) / made


def assert_wake_refused(server, sandbox, says: str) -> str:
    """A request is told why, at once, and the sandbox is as it was."""
    with pytest.raises(Leap0Error) as refusal:
        sandbox.process.execute(command="true")
    assert refusal.value.status_code == 409, refusal.value
    assert re.search(says, str(refusal.value)), f"a clear error says {says!r}: {refusal.value}"
    with api_client(server) as api:
        shown = api.get(f"/v1/sandbox/{sandbox.id}").json()
    assert shown["state"] == "paused" and re.search(says, shown["state_reason"]), shown
    return str(refusal.value)


@pytest.mark.parametrize("damage", [pytest.param("flipped", marks=pytest.mark.production_driver), "cut"])
def test_case_39_damage_in_any_file_of_a_paused_sandbox_is_refused_and_what_is_repaired_wakes(house, damage):
    with sdk_client(house) as client:
        sandbox = client.sandboxes.create(timeout=3600)
        leave_marks(sandbox, "kept")
        archive = pause_into_archive(house, sandbox)
        files = files_of(archive)
        assert len(files) >= 4, f"memory, state, disk and manifest: {files}"
        for file in files:
            log = log_since(house)
            with damaged(file, DAMAGES[damage]):
                told = assert_wake_refused(house, sandbox, "damaged|stored")
                assert str(house.data_dir) not in told, "the client is not told of the host's folders"
            wait_until("the log names the file", lambda: file.name in log() and archive.name in log())
        assert marks(sandbox) == all_marks("kept")
        sandbox.delete()


def test_case_39_damage_in_a_snapshot_is_refused_at_its_restore_and_nothing_is_left_of_it(house):
    with sdk_client(house) as client:
        sandbox = client.sandboxes.create()
        leave_marks(sandbox, "kept")
        before = checkpoints(house)
        snapshot = sandbox.create_snapshot(name="fragile", kill_sandbox_after=True)
        (archive,) = checkpoints(house) - before
        for file in files_of(archives(house) / archive):
            for damage in DAMAGES.values():
                with damaged(file, damage), pytest.raises(Leap0Error) as refusal:
                    client.snapshots.restore(snapshot_name="fragile")
                assert refusal.value.status_code in (409, 500, 503), refusal.value
                assert client.sandboxes.list().total_items == 0, "no half-made sandbox is shown"
        restored = client.snapshots.restore(snapshot_name="fragile")
        assert marks(restored) == all_marks("kept")
        restored.delete()
        client.snapshots.delete(snapshot)


def test_case_46_a_paused_sandbox_that_cannot_be_woken_can_be_deleted(house):
    with sdk_client(house) as client:
        for how in ("damaged", "lost"):
            sandbox = client.sandboxes.create(timeout=3600)
            archive = pause_into_archive(house, sandbox)
            if how == "damaged":
                flip_a_bit(max(files_of(archive), key=lambda file: file.stat().st_size))
            else:
                shutil.rmtree(archive)
            assert_wake_refused(house, sandbox, "damaged|stored|missing|lost")
            sandbox.delete()
            assert state_of(client, sandbox.id) == "unknown"
            wait_until("its archive is gone", lambda: not archive.exists())


def test_case_40_one_sandboxs_state_in_anothers_place_is_refused(house):
    with sdk_client(house) as client:
        sandboxes = [client.sandboxes.create(timeout=3600) for _ in range(2)]
        first, second = (pause_into_archive(house, sandbox) for sandbox in sandboxes)
        aside = first.with_name(".aside")
        for source, place in ((first, aside), (second, first), (aside, second)):
            source.rename(place)
        for sandbox in sandboxes:
            assert_wake_refused(house, sandbox, "damaged|stored")
        for source, place in ((first, aside), (second, first), (aside, second)):
            source.rename(place)
        for sandbox in sandboxes:
            assert sh(sandbox, "echo awake") == "awake\n"
            sandbox.delete()


@pytest.fixture
def foreign(house):
    """Another installation on the same host. What it leaves is found when the house is closed."""
    own = {"LEAPBOX_LINK_BLOCK": "10.252.0.0/16", "LEAPBOX_BASE_UID": "2500000"}
    made = Server(current().run_dir / "foreign", own).setup().start()
    with sdk_client(made) as client:
        yield made
        delete_all(client)
    made.stop()


def test_case_40_state_stored_by_another_installation_is_refused(house, foreign):
    with sdk_client(house) as client, sdk_client(foreign) as abroad:
        sandbox, other = client.sandboxes.create(timeout=3600), abroad.sandboxes.create(timeout=3600)
        own, theirs = pause_into_archive(house, sandbox), pause_into_archive(foreign, other)
        aside = own.rename(own.with_name(".aside"))
        shutil.copytree(theirs, own)
        assert_wake_refused(house, sandbox, "damaged|stored")
        shutil.rmtree(own)
        aside.rename(own)
        assert sh(sandbox, "echo awake") == "awake\n"
        sandbox.delete()


def test_case_40_a_sandbox_whose_host_has_changed_is_refused_by_its_compatibility_and_wakes_where_it_fits(house):
    """Under QEMU a snapshot fits one TSC rate: the server is made to believe that this host has another."""
    rate = house.data_dir / "state" / "qemu" / "tsc-khz"
    if not rate.exists():
        pytest.skip("this driver's key is made of what cannot be changed here: CPU, microcode and kernel")
    with sdk_client(house) as client:
        sandbox = client.sandboxes.create(timeout=3600)
        leave_marks(sandbox, "kept")
        sandbox.pause()
        house.stop()
        truth = rate.read_text()
        digits = re.search(r"\d{5,}", truth).group()
        rate.write_text(truth.replace(digits, str(int(digits) + 500_000)))
        house.start()
        assert_wake_refused(house, sandbox, "another CPU model, VMM or kernel")
        house.stop()
        rate.write_text(truth)
        house.start()
        assert marks(sandbox) == all_marks("kept")
        sandbox.delete()


PIECE = 1 << 24
OVERLAP = 256


def pieces(file: int, start: int, end: int) -> Iterator[bytes]:
    """What is there, in pieces that overlap by a little, as far as it can be read."""
    for at in range(start, end, PIECE - OVERLAP):
        try:
            yield os.pread(file, min(end - at, PIECE), at)
        except OSError:
            return


def memory_of(pid: int) -> Iterator[bytes]:
    """Everything that is in a VMM's memory."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            start, _, end = line.split()[0].partition("-")
            # Above are the kernel's own pages.
            yield from pieces(memory.fileno(), int(start, 16), min(int(end, 16), 1 << 47))


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


def test_case_41_no_secret_of_the_platform_is_in_the_guest_or_in_what_is_stored_of_it(house):
    key = house.env()["LEAP0_API_KEY"].encode()
    secret = b"hunter2-which-only-the-guest-may-know"
    with sdk_client(house) as client, web_client(house) as web:
        sandbox = client.sandboxes.create(timeout=3600, env_vars={"PASSWORD": secret.decode()})
        url = start_app(sandbox, web)
        assert "headers" not in web.get(f"{url}/headers").text
        assert sh(sandbox, 'echo "$PASSWORD"').encode().strip() == secret
        platforms = {"API key": key, "key hash's source": key.removeprefix(b"lbx_")}
        platforms |= {file.name: file.read_bytes() for file in house.data_dir.rglob("*.key") if "tls" in str(file)}
        platforms |= {f"archive {file.name}": file.read_bytes() for file in server_keys(house)}
        found_guest = {"password": False}
        for piece in memory_of(vmm_pid(house.data_dir, sandbox.id)):
            found_guest["password"] |= secret in piece
            for name, value in platforms.items():
                assert value not in piece, f"the {name} is in the guest's memory"
        assert found_guest["password"], "the search finds what is there"
        sandbox.pause()
        stored = [file for file in (house.data_dir / "state").rglob("*") if file.is_file() and not file.is_symlink()]
        for file in stored:
            for piece in content_of(file):
                assert secret not in piece, f"{file} has the guest's environment readable"
                for name, value in platforms.items() if archives(house) in file.parents else ():
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

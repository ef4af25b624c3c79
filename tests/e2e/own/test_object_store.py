"""Archives in a real S3 server: complete there, checked when they come back, and no pause waits for it. Case 47."""

import shutil
import time

import pytest

from e2e.conftest import running_server
from lab import Server, current, patience, wait_until
from lab.clients import api_client, delete_all, sdk_client
from lab.s3 import ObjectStore
from lab.sandboxes import all_marks, leave_marks, marks, sh, state_of
from lab.sdk import Leap0Error
from lab.stored import archives, checkpoints

MIB = 1024 * 1024
CACHE_MIB = 64


@pytest.fixture(scope="module")
def bucket():
    made = ObjectStore().start()
    yield made
    made.remove()


@pytest.fixture(scope="module")
def server(bucket):
    """A server that keeps its archives in the bucket, and little of them here."""
    with running_server("bucket", {**bucket.settings(), "LEAPBOX_ARCHIVE_CACHE_MIB": str(CACHE_MIB)}) as made:
        yield made


@pytest.fixture
def house(server):
    """The server, with nothing left of the test before."""
    with sdk_client(server) as client:
        delete_all(client)
    return server


def archives_in(bucket: ObjectStore) -> dict[str, set[str]]:
    """Archive → its objects, as far as they are in the bucket."""
    found: dict[str, set[str]] = {}
    for key in bucket.objects():
        archive, _, part = key.partition("/")
        found.setdefault(archive, set()).add(part)
    return found


def is_uploaded(bucket: ObjectStore, archive: str) -> bool:
    """An archive with its manifest is complete: that goes last."""
    return any("manifest" in part for part in archives_in(bucket).get(archive, ()))


def wait_for_uploads(bucket: ObjectStore, server) -> None:
    """Every checkpoint that is here, and what it stands on, is in the bucket too."""

    def all_there() -> bool:
        missing = {name for name in checkpoints(server) if not is_uploaded(bucket, name)}
        assert not missing, missing
        kinds = {name.partition("-")[0] for name in archives_in(bucket) if is_uploaded(bucket, name)}
        assert {"base", "image"} <= kinds, kinds
        return True

    wait_until("everything is uploaded", all_there, timeout=60)


def lose_every_local_copy(server) -> None:
    """The server is stopped, and all that could be fetched from the bucket is removed."""
    server.stop()
    for folder in (archives(server), server.data_dir / "state" / "warm"):
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


# These two come before the server that the others share.
def test_a_store_that_cannot_be_is_named_at_the_start():
    for number, (url, word) in enumerate([("gopher://x/y", "gopher"), ("s3://", "s3://"), ("nonsense", "nonsense")]):
        server = Server(current().run_dir / f"bad{number}", {"LEAPBOX_OBJECT_STORE": url})
        server.setup()
        done = server.run("serve", timeout=30)
        assert done.returncode != 0 and word in done.stdout + done.stderr, done


def test_a_folder_as_the_store_works_like_a_bucket():
    place = current().run_dir / "folder-store"
    place.mkdir()
    with running_server("folder", {"LEAPBOX_OBJECT_STORE": f"file://{place}"}) as server, sdk_client(server) as client:
        sandbox = client.sandboxes.create(timeout=3600)
        leave_marks(sandbox, "kept")
        sandbox.pause()
        (archive,) = checkpoints(server)
        wait_until("it is copied", lambda: any("manifest" in file.name for file in place.rglob(f"*{archive}*/*")))
        server.stop()
        shutil.rmtree(archives(server) / archive)
        server.start()
        assert marks(sandbox) == all_marks("kept")
        sandbox.delete()
        wait_until("its copy is gone", lambda: not [f for f in place.rglob(f"*{archive}*/*") if f.is_file()])
    shutil.rmtree(place)


def test_with_every_local_copy_gone_paused_stopped_and_snapshotted_come_back_from_the_bucket_alone(house, bucket):
    with sdk_client(house) as client, api_client(house) as api:
        paused, stopped, source = (client.sandboxes.create(timeout=3600) for _ in range(3))
        for sandbox in (paused, stopped, source):
            leave_marks(sandbox, "kept")
        sh(paused, "head -c 20000000 /dev/urandom >/dev/shm/much")
        much = sh(paused, "sha256sum /dev/shm/much")
        snapshot = source.create_snapshot(name="far away", kill_sandbox_after=True)
        paused.pause()
        assert api.post(f"/v1/sandbox/{stopped.id}/stop").status_code == 200
        wait_for_uploads(bucket, house)
        lose_every_local_copy(house)
        house.start()
        assert state_of(client, paused.id) == "paused" and state_of(client, stopped.id) == "stopped"
        assert marks(paused) == all_marks("kept") and sh(paused, "sha256sum /dev/shm/much") == much
        restored = client.snapshots.restore(snapshot_name="far away")
        assert marks(restored) == all_marks("kept")
        assert api.post(f"/v1/sandbox/{stopped.id}/start").status_code == 200
        assert marks(stopped)["disk"] == "kept"
        for sandbox in (paused, stopped, restored):
            sandbox.delete()
        client.snapshots.delete(snapshot)
        wait_until("their objects are gone", lambda: not [a for a in archives_in(bucket) if a.startswith("ckp-")])


def test_what_lies_in_the_bucket_is_encrypted(house, bucket):
    word = "a-word-that-nobody-else-says"
    with sdk_client(house) as client:
        sandbox = client.sandboxes.create(env_vars={"WORD": word})
        sh(sandbox, f"yes {word} | head -c 1000000 >/dev/shm/words; cp /dev/shm/words ~/words; sync")
        sandbox.pause()
        wait_for_uploads(bucket, house)
        for key in bucket.objects():
            if key.startswith("ckp-"):
                assert word.encode() not in bucket.read(key), key
        sandbox.delete()


@pytest.mark.parametrize("how", ["dead", "frozen"])
def test_case_47_a_store_that_fails_or_stalls_delays_no_pause_and_gets_its_upload_later(house, bucket, how):
    with sdk_client(house) as client:
        sandbox = client.sandboxes.create(timeout=3600)
        leave_marks(sandbox, "kept")
        bucket.kill9() if how == "dead" else bucket.freeze()
        try:
            begun = time.monotonic()
            sandbox.pause()
            took = time.monotonic() - begun
            assert marks(sandbox) == all_marks("kept"), "it wakes from the local copy"
            sandbox.pause()
            begun = time.monotonic()
            house.restart()
            restarted = time.monotonic() - begun
            assert state_of(client, sandbox.id) == "paused"
        finally:
            bucket.start() if how == "dead" else bucket.thaw()
        assert took < patience(10), f"the pause took {took:.1f} s"
        assert restarted < patience(30), f"the restart took {restarted:.1f} s"
        wait_for_uploads(bucket, house)
        lose_every_local_copy(house)
        house.start()
        assert marks(sandbox) == all_marks("kept")
        sandbox.delete()


def test_case_47_a_server_killed_in_the_middle_of_an_upload_finishes_it_later(house, bucket):
    with sdk_client(house) as client:
        sandbox = client.sandboxes.create(timeout=3600)
        leave_marks(sandbox, "kept")
        sh(sandbox, "head -c 80000000 /dev/urandom >/dev/shm/much", timeout=120)
        much = sh(sandbox, "sha256sum /dev/shm/much", timeout=60)
        sandbox.pause()
        bucket.freeze()
        (archive,) = checkpoints(house)
        house.kill9()
        bucket.thaw()
        assert not is_uploaded(bucket, archive), "the upload was over before the kill"
        house.start()
        wait_for_uploads(bucket, house)
        lose_every_local_copy(house)
        house.start()
        assert marks(sandbox) == all_marks("kept") and sh(sandbox, "sha256sum /dev/shm/much", timeout=60) == much
        sandbox.delete()


def test_case_39_a_flipped_bit_or_a_missing_part_in_the_bucket_is_refused_and_the_sandbox_stays(house, bucket):
    with sdk_client(house) as client:
        sandbox = client.sandboxes.create(timeout=3600)
        leave_marks(sandbox, "kept")
        sandbox.pause()
        (archive,) = checkpoints(house)
        wait_for_uploads(bucket, house)
        for part in sorted(archives_in(bucket)[archive]):
            key = f"{archive}/{part}"
            content = bucket.read(key)
            if not content:
                continue
            middle = len(content) // 2
            damages = {
                "flipped": content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :],
                "cut": content[:-1],
                "missing": None,
            }
            for damage, bytes_there in damages.items():
                bucket.delete(key) if bytes_there is None else bucket.write(key, bytes_there)
                house.stop()
                shutil.rmtree(archives(house) / archive, ignore_errors=True)
                house.start()
                with pytest.raises(Leap0Error) as refusal:
                    sandbox.process.execute(command="true")
                assert refusal.value.status_code in (409, 500, 503), f"{part} {damage}: {refusal.value}"
                assert state_of(client, sandbox.id) == "paused"
            bucket.write(key, content)
        assert marks(sandbox) == all_marks("kept")
        sandbox.delete()


def test_local_copies_are_kept_within_the_budget_and_what_was_evicted_comes_back(house, bucket):
    with sdk_client(house) as client:
        sandboxes = [client.sandboxes.create(timeout=3600) for _ in range(3)]
        for sandbox in sandboxes:
            leave_marks(sandbox, sandbox.id)
            sh(sandbox, "head -c 40000000 /dev/urandom >/dev/shm/much")
            sandbox.pause()

        def within_budget() -> bool:
            here = sum(file.stat().st_size for file in archives(house).rglob("*") if file.is_file())
            assert here <= CACHE_MIB * MIB, f"{here / MIB:.0f} MiB"
            return True

        wait_until("the cache is within its budget", within_budget, timeout=60)
        for sandbox in sandboxes:
            assert marks(sandbox) == all_marks(sandbox.id)
            sandbox.delete()
        wait_until("their objects are gone", lambda: not [a for a in archives_in(bucket) if a.startswith("ckp-")])

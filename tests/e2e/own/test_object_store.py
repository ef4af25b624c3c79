"""Archives in a real S3 server: complete there, checked when they come back, and no pause waits for it. Case 47."""

import re
import shutil
import subprocess
import time

import pytest

from e2e.conftest import running_server
from lab import Server, current, patience, wait_until
from lab.clients import api_client, sdk_client
from lab.logs import events_since
from lab.s3 import S3_PORT, ObjectStore
from lab.sandboxes import all_marks, leave_marks, marks, sh, state_of
from lab.sdk import Leap0Error
from lab.stored import archives, checkpoints

MIB = 1024 * 1024
CACHE_MIB = 64
# How often a kill in the middle is tried.
ATTEMPTS = 5


@pytest.fixture(scope="module")
def bucket():
    made = ObjectStore().start()
    yield made
    made.remove()


@pytest.fixture(scope="module")
def own_server(bucket):
    """A server that keeps its archives in the bucket, and little of them here."""
    settings = {"LEAPBOX_ARCHIVE_CACHE_MIB": str(CACHE_MIB), "LEAPBOX_POOL_SIZE": "1"}
    with running_server("bucket", {**bucket.settings(), **settings}) as made:
        yield made


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


def test_an_object_store_that_cannot_be_one_is_refused_at_the_start():
    folder, no_pool = current().run_dir / "no-store", {"LEAPBOX_POOL_SIZE": "0"}
    server = Server(folder, no_pool).setup()
    for url in ("ftp://bucket/prefix", "s3://", "file://not-absolute"):
        refused = Server(folder, {**no_pool, "LEAPBOX_OBJECT_STORE": url}).run("serve", timeout=30)
        assert refused.returncode != 0 and url in refused.stderr, refused
    # Nothing else was wrong.
    server.start().stop()


def test_with_every_local_copy_gone_paused_stopped_and_snapshotted_come_back_from_the_bucket_alone(server, bucket):
    with sdk_client(server) as client, api_client(server) as api:
        paused, stopped, source = (client.sandboxes.create(timeout=3600) for _ in range(3))
        for sandbox in (paused, stopped, source):
            leave_marks(sandbox, "kept")
        sh(paused, "head -c 20000000 /dev/urandom >/dev/shm/much")
        much = sh(paused, "sha256sum /dev/shm/much")
        snapshot = source.create_snapshot(name="far away", kill_sandbox_after=True)
        paused.pause()
        assert api.post(f"/v1/sandbox/{stopped.id}/stop").status_code == 200
        wait_for_uploads(bucket, server)
        lose_every_local_copy(server)
        server.start()
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


def test_what_lies_in_the_bucket_is_encrypted(server, bucket):
    word = "a-word-that-nobody-else-says"
    with sdk_client(server) as client:
        sandbox = client.sandboxes.create(env_vars={"WORD": word})
        sh(sandbox, f"yes {word} | head -c 1000000 >/dev/shm/words; cp /dev/shm/words ~/words; sync")
        sandbox.pause()
        wait_for_uploads(bucket, server)
        stored = [key for key in bucket.objects() if key.startswith("ckp-")]
        assert len(stored) >= 4, f"memory, state, disk and manifest: {stored}"
        for key in stored:
            assert word.encode() not in bucket.read(key), key
        sandbox.delete()


def test_case_47_a_store_that_fails_or_stalls_delays_no_pause_and_gets_its_upload_later(server, bucket):
    faults = {"dead": (bucket.kill9, bucket.start), "frozen": (bucket.freeze, bucket.thaw)}
    with sdk_client(server) as client:
        sandbox = client.sandboxes.create(timeout=3600)
        leave_marks(sandbox, "kept")
        for how, (begin, end) in faults.items():
            assert marks(sandbox) == all_marks("kept"), "it is awake"
            begin()
            try:
                begun = time.monotonic()
                sandbox.pause()
                took = time.monotonic() - begun
                assert marks(sandbox) == all_marks("kept"), "it wakes from the local copy"
                sandbox.pause()
                begun = time.monotonic()
                server.restart()
                restarted = time.monotonic() - begun
                assert state_of(client, sandbox.id) == "paused"
                assert server.metric("archives_pending") >= 1, "the store has not got it"
            finally:
                end()
            assert took < patience(10), f"the pause took {took:.1f} s: {how}"
            assert restarted < patience(30), f"the restart took {restarted:.1f} s: {how}"
            wait_for_uploads(bucket, server)
        lose_every_local_copy(server)
        server.start()
        assert marks(sandbox) == all_marks("kept")
        sandbox.delete()


def brought() -> dict[str, int]:
    """How many bytes each connection to the store has brought it so far, by its client's address."""
    command = ["ss", "-H", "-O", "-tin", "state", "established", f"( sport = :{S3_PORT} )"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    counted = ((line.split()[3], re.search(r"bytes_received:(\d+)", line)) for line in lines)
    return {client: int(found[1]) for client, found in counted if found}


def frozen_in_the_middle(bucket: ObjectStore, server, sandbox) -> bool:
    """Pauses the sandbox and freezes the store once it has some of it; tells whether it has not got all of it."""
    before = brought()
    sandbox.pause()

    def is_begun() -> bool:
        new = sum(count - before.get(client, 0) for client, count in brought().items())
        return new > MIB or server.metric("archives_pending") == 0

    wait_until("some of it is uploaded", is_begun, interval=0.002)
    bucket.freeze()
    return server.metric("archives_pending") >= 1


def test_case_47_a_server_killed_in_the_middle_of_an_upload_finishes_it_later(server, bucket):
    with sdk_client(server) as client:
        sandbox = client.sandboxes.create(timeout=3600)
        leave_marks(sandbox, "kept")
        # What it stands on is in the bucket: what is uploaded below is of this sandbox alone.
        sandbox.pause()
        wait_for_uploads(bucket, server)
        sh(sandbox, "head -c 20000000 /dev/urandom >/dev/shm/much", timeout=120)
        much = sh(sandbox, "sha256sum /dev/shm/much", timeout=60)
        try:
            for _ in range(ATTEMPTS):
                if frozen_in_the_middle(bucket, server, sandbox):
                    break
                bucket.thaw()
                assert marks(sandbox) == all_marks("kept"), "it is awake"
            else:
                pytest.fail(f"{ATTEMPTS} times the upload was over before the store stood still")
            server.kill9()
        finally:
            bucket.thaw()
        missing = {name for name in checkpoints(server) if not is_uploaded(bucket, name)}
        assert len(missing) == 1
        server.start()
        wait_for_uploads(bucket, server)
        assert all(is_uploaded(bucket, name) for name in missing)
        lose_every_local_copy(server)
        server.start()
        assert marks(sandbox) == all_marks("kept") and sh(sandbox, "sha256sum /dev/shm/much", timeout=60) == much
        sandbox.delete()


def test_case_39_a_flipped_bit_or_a_missing_part_in_the_bucket_is_refused_and_the_sandbox_stays(server, bucket):
    with sdk_client(server) as client:
        sandbox = client.sandboxes.create(timeout=3600)
        leave_marks(sandbox, "kept")
        sandbox.pause()
        (archive,) = checkpoints(server)
        wait_for_uploads(bucket, server)
        # Every damage in every part is in crates/storage/src/store/tests/bucket.rs.
        memory, manifest = f"{archive}/memory", f"{archive}/manifest.json"
        content = {key: bucket.read(key) for key in (memory, manifest)}
        middle = len(content[memory]) // 2
        flipped = bytearray(content[memory])
        flipped[middle] ^= 0x10
        damages = {memory: lambda: bucket.write(memory, bytes(flipped)), manifest: lambda: bucket.delete(manifest)}
        # Without its manifest the server cannot say which file is missing, so the log names the archive.
        for (key, damage), about in zip(damages.items(), (memory, archive), strict=True):
            damage()
            server.stop()
            shutil.rmtree(archives(server) / archive, ignore_errors=True)
            server.start()
            events = events_since(server)
            with pytest.raises(Leap0Error) as refusal:
                sandbox.process.execute(command="true")
            assert refusal.value.status_code == 409, f"{key}: {refusal.value}"
            assert state_of(client, sandbox.id) == "paused"
            (failed,) = events("wake_failed")
            assert failed["sandbox"] == sandbox.id and about in failed["error"], failed
            bucket.write(key, content[key])
        assert marks(sandbox) == all_marks("kept")
        sandbox.delete()


def test_local_copies_are_kept_within_the_budget_and_what_was_evicted_comes_back(server, bucket):
    with sdk_client(server) as client:
        sandboxes = [client.sandboxes.create(timeout=3600) for _ in range(2)]
        for sandbox in sandboxes:
            leave_marks(sandbox, sandbox.id)
            sh(sandbox, "head -c 40000000 /dev/urandom >/dev/shm/much", timeout=60)
            sandbox.pause()
        wait_for_uploads(bucket, server)
        total = sum(size for key, size in bucket.objects().items() if key.startswith("ckp-"))
        assert total > CACHE_MIB * MIB, "they do not all have room here"

        def within_budget() -> bool:
            here = sum(file.stat().st_size for file in archives(server).rglob("*") if file.is_file())
            assert here <= CACHE_MIB * MIB, f"{here / MIB:.0f} MiB"
            return True

        wait_until("the cache is within its budget", within_budget, timeout=60)
        for sandbox in sandboxes:
            assert marks(sandbox) == all_marks(sandbox.id)
            sandbox.delete()
        wait_until("their objects are gone", lambda: not [a for a in archives_in(bucket) if a.startswith("ckp-")])

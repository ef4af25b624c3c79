"""A base snapshot that was damaged or exchanged while the server was down is never booted: cases 39 and 40."""

import json
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from lab import Server
from lab.clients import sdk_client
from lab.logs import events_since
from lab.sandboxes import sh
from lab.stored import flip_a_bit

FILES = ("memory", "state", "disk")
# What the server's log tells of a stored base.
REFUSED, VERIFIED, TAKEN = "base_refused", "base_verified", "base_taken"
DEFAULT_MIB = 1024
SMALL_MIB = 512


class Snapshot:
    """A base snapshot's folder as it lies on the disk."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.header = json.loads((folder / "manifest.json").read_text())["content"]["header"]

    def path(self, kind: str) -> Path:
        """The file of its memory, state or disk, or its manifest."""
        return self.folder / ("manifest.json" if kind == "manifest" else self.header[kind])

    def identity(self) -> set[tuple[str, int, int]]:
        """Tells whether a file is the one that was there before."""
        looks = {kind: self.path(kind).stat() for kind in FILES}
        return {(kind, look.st_ino, look.st_mtime_ns) for kind, look in looks.items()}


def stored(server: Server, memory_mib: int) -> Snapshot:
    found = [Snapshot(manifest.parent) for manifest in warm_folder(server).glob("[!.]*/manifest.json")]
    (snapshot,) = [each for each in found if fits(each.header, memory_mib)]
    return snapshot


def fits(header: dict, memory_mib: int) -> bool:
    """What creates start from; what a stopped sandbox is started from is another one."""
    return header["shape"]["memory_mib"] == memory_mib and header["kind"] == "ready"


def warm_folder(server: Server) -> Path:
    return server.data_dir / "state" / "warm"


def test_a_sound_snapshot_is_verified_once_and_used_after_a_restart(server):
    with sdk_client(server) as client:
        client.sandboxes.create().delete()
        before = stored(server, DEFAULT_MIB).identity()
        server.stop()
        events = events_since(server)
        server.start()
        for _ in range(2):
            sandbox = client.sandboxes.create()
            assert sh(sandbox, "echo works") == "works\n"
            sandbox.delete()
        assert stored(server, DEFAULT_MIB).identity() == before
        (verified,) = events(VERIFIED)
        assert events(REFUSED, TAKEN) == []
        print(verified)


def test_snapshots_are_read_only_in_a_folder_that_is_roots_alone(server):
    with sdk_client(server) as client:
        client.sandboxes.create().delete()
    look = warm_folder(server).stat()
    assert (stat.S_IMODE(look.st_mode), look.st_uid) == (0o700, 0)
    for kind in FILES:
        look = stored(server, DEFAULT_MIB).path(kind).stat()
        assert look.st_uid == 0 and not look.st_mode & 0o222, kind


@pytest.mark.parametrize(
    ("kind", "fault"),
    # One that is found at its first use and one at the start; crates/bases/src/folder/tests.rs has every file.
    [("memory", "content"), ("manifest", "manifest")],
    ids=["memory", "manifest"],
)
def test_case_39_a_damaged_snapshot_is_refused_with_its_reason_and_taken_anew(server, kind, fault):
    with sdk_client(server) as client:
        client.sandboxes.create().delete()
        server.stop()
        snapshot = stored(server, DEFAULT_MIB)
        flip_a_bit(snapshot.path(kind))
        damaged = snapshot.identity()
        events = events_since(server)
        server.start()
        sandbox = client.sandboxes.create()
        assert sh(sandbox, "echo works") == "works\n"
        refused, *after = events(REFUSED, TAKEN)
        assert (refused["event"], refused["fault"]) == (REFUSED, fault), refused
        assert (refused["dir"], refused["file"]) == (str(snapshot.folder), str(snapshot.path(kind)))
        assert TAKEN in [event["event"] for event in after], "one was taken after the refusal"
        assert not stored(server, DEFAULT_MIB).identity() & damaged, "nothing of the damaged one is left"
        sandbox.delete()


def test_case_40_a_snapshot_in_the_place_of_anothers_is_refused_by_its_name(server):
    with sdk_client(server) as client:
        for memory_mib in (DEFAULT_MIB, SMALL_MIB):
            client.sandboxes.create(memory=memory_mib).delete()
        server.stop()
        rightful, replaced = stored(server, DEFAULT_MIB), stored(server, SMALL_MIB)
        shutil.rmtree(replaced.folder)
        subprocess.run(["cp", "-a", "--sparse=always", rightful.folder, replaced.folder], check=True)
        before = rightful.identity()
        events = events_since(server)
        server.start()
        sandbox = client.sandboxes.create(memory=SMALL_MIB)
        (refused,) = events(REFUSED)
        assert (refused["fault"], refused["dir"]) == ("misplaced", str(replaced.folder))
        total_kib = int(sh(sandbox, "awk '/MemTotal/ {print $2}' /proc/meminfo"))
        assert total_kib < SMALL_MIB * 1024, "its own memory, not the other's"
        assert stored(server, DEFAULT_MIB).identity() == before, "the one in its own place is left alone"
        sandbox.delete()

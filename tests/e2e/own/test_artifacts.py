"""A warm snapshot that was damaged or exchanged while the server was down is never booted: cases 39 and 40."""

import json
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from e2e.conftest import running_server
from lab import Server
from lab.clients import sdk_client
from lab.sandboxes import sh
from lab.stored import cut_the_end_off, flip_a_bit, log_since

FILES = ("memory", "state", "disk")
REFUSED = "refused a stored warm snapshot"
SOUND = "the stored warm snapshot is sound"
TAKEN = "warm snapshot taken"
DEFAULT_MIB = 1024
SMALL_MIB = 512


@pytest.fixture(scope="module")
def house():
    """One server for all of these: every test makes it a sound snapshot again."""
    with running_server("artifacts") as made:
        yield made


class Snapshot:
    """A warm snapshot's folder as it lies on the disk."""

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


def test_a_sound_snapshot_is_verified_once_and_used_after_a_restart(house):
    with sdk_client(house) as client:
        client.sandboxes.create().delete()
        before = stored(house, DEFAULT_MIB).identity()
        house.stop()
        log = log_since(house)
        house.start()
        for _ in range(2):
            sandbox = client.sandboxes.create()
            assert sh(sandbox, "echo works") == "works\n"
            sandbox.delete()
        assert stored(house, DEFAULT_MIB).identity() == before
        assert log().count(SOUND) == 1
        assert REFUSED not in log() and TAKEN not in log()
        print(next(line for line in log().splitlines() if SOUND in line))


def test_snapshots_are_read_only_in_a_folder_that_is_roots_alone(house):
    with sdk_client(house) as client:
        client.sandboxes.create().delete()
    look = warm_folder(house).stat()
    assert (stat.S_IMODE(look.st_mode), look.st_uid) == (0o700, 0)
    for kind in FILES:
        look = stored(house, DEFAULT_MIB).path(kind).stat()
        assert look.st_uid == 0 and not look.st_mode & 0o222, kind


@pytest.mark.parametrize(
    ("kind", "damage", "reason"),
    [
        pytest.param(
            "memory",
            flip_a_bit,
            r"memory is damaged: its bytes at \d+\.\.\d+ are not those that were sealed",
            marks=pytest.mark.production_driver,
        ),
        ("state", cut_the_end_off, r"state is damaged: it has \d+ bytes and was sealed with \d+"),
        ("disk", flip_a_bit, r"disk is damaged: its bytes at \d+\.\.\d+ are not those that were sealed"),
        ("manifest", flip_a_bit, r"manifest\.json is damaged: "),
    ],
    ids=["memory", "state", "disk", "manifest"],
)
def test_case_39_a_damaged_snapshot_is_refused_with_its_reason_and_taken_anew(house, kind, damage, reason):
    with sdk_client(house) as client:
        client.sandboxes.create().delete()
        house.stop()
        snapshot = stored(house, DEFAULT_MIB)
        damage(snapshot.path(kind))
        damaged = snapshot.identity()
        log = log_since(house)
        house.start()
        sandbox = client.sandboxes.create()
        assert sh(sandbox, "echo works") == "works\n"
        refusals = [line for line in log().splitlines() if REFUSED in line]
        assert refusals and re.search(reason, refusals[0]), refusals
        assert str(snapshot.folder) in refusals[0], "it says which"
        assert TAKEN in log().partition(REFUSED)[2], "one was taken after the refusal"
        assert not stored(house, DEFAULT_MIB).identity() & damaged, "nothing of the damaged one is left"
        sandbox.delete()


@pytest.mark.production_driver
@pytest.mark.thorough
def test_case_40_a_snapshot_in_the_place_of_anothers_is_refused_by_its_name(house):
    with sdk_client(house) as client:
        for memory_mib in (DEFAULT_MIB, SMALL_MIB):
            client.sandboxes.create(memory=memory_mib).delete()
        house.stop()
        rightful, replaced = stored(house, DEFAULT_MIB), stored(house, SMALL_MIB)
        shutil.rmtree(replaced.folder)
        subprocess.run(["cp", "-a", "--sparse=always", rightful.folder, replaced.folder], check=True)
        before = rightful.identity()
        log = log_since(house)
        house.start()
        sandbox = client.sandboxes.create(memory=SMALL_MIB)
        refusals = [line for line in log().splitlines() if REFUSED in line]
        assert len(refusals) == 1, refusals
        assert f"it is {rightful.folder.name}, and lies in the place of {replaced.folder.name}" in refusals[0]
        total_kib = int(sh(sandbox, "awk '/MemTotal/ {print $2}' /proc/meminfo"))
        assert total_kib < SMALL_MIB * 1024, "its own memory, not the other's"
        assert stored(house, DEFAULT_MIB).identity() == before, "the one in its own place is left alone"
        sandbox.delete()

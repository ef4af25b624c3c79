"""Case 3: links planted where the server keeps machines, disks, snapshots and artifacts lead nowhere.

What a VMM's own user can plant in its jail (nothing) is in `shared/test_walls.py`.
"""

import os
import shutil
from pathlib import Path

import pytest

from lab import Server, current
from lab.clients import sdk_client
from lab.sandboxes import sh
from lab.server import ARTIFACTS

SECRET = "not a sandbox's business\n"
STRANGER = 2_999_999
# No sandbox is made where it is used.
NO_POOL = {"LEAPBOX_POOL_SIZE": "0"}
FOLDERS = ("machines", "disks", "warm", "archives")


class Outside:
    """A folder beside the server's, with things that must stay as they are."""

    def __init__(self, path: Path):
        self.path = path
        (path / "folder").mkdir(parents=True)
        for name in ("file", "disk.ext4", "folder/file"):
            (path / name).write_text(SECRET)
            (path / name).chmod(0o640)
        self.before = self.look()

    def look(self) -> dict[str, tuple]:
        found = {}
        for path in sorted(self.path.rglob("*")):
            info = path.lstat()
            content = path.read_text() if path.is_file() else None
            found[str(path.relative_to(self.path))] = (info.st_mode, info.st_uid, info.st_gid, info.st_ino, content)
        return found

    def assert_untouched(self) -> None:
        assert self.look() == self.before


@pytest.fixture
def outside(request):
    path = current().run_dir / f"outside-{request.node.name[:60]}"
    yield Outside(path)
    shutil.rmtree(path)


def state(server: Server) -> Path:
    return server.data_dir / "state"


def plant(server: Server, outside: Outside) -> list[Path]:
    """Links of every kind in every folder whose content the server goes through."""
    machines, disks, warm, archives = (state(server) / name for name in FOLDERS)
    made = []
    for folder in (machines, disks, warm, archives):
        made += [folder / "vm-to-folder", folder / "vm-to-file", folder / "vm-hard", folder / ".vm-hidden"]
        (folder / "vm-to-folder").symlink_to(outside.path / "folder")
        (folder / "vm-to-file").symlink_to(outside.path / "file")
        os.link(outside.path / "file", folder / "vm-hard")
        (folder / ".vm-hidden").symlink_to(outside.path)
    (disks / "vm-planted.ext4").symlink_to(outside.path / "disk.ext4")
    os.link(outside.path / "disk.ext4", disks / "vm-linked.ext4")
    inside = machines / "vm-inside"
    (inside / "firecracker" / "vm-inside" / "root").mkdir(parents=True)
    (inside / "up").symlink_to(outside.path)
    (inside / "firecracker" / "vm-inside" / "root" / "disk").symlink_to(outside.path / "disk.ext4")
    os.link(outside.path / "file", inside / "hard")
    (archives / "ckp-planted").symlink_to(outside.path / "folder")
    (archives / "ckp-inside").mkdir()
    (archives / "ckp-inside" / "memory").symlink_to(outside.path / "file")
    os.link(outside.path / "file", archives / "ckp-inside" / "manifest.json")
    made += [archives / "ckp-planted", archives / "ckp-inside"]
    return [*made, disks / "vm-planted.ext4", disks / "vm-linked.ext4", inside]


@pytest.mark.production_driver
@pytest.mark.thorough
def test_case_3_planted_links_are_not_followed_and_do_not_disturb_a_running_sandbox(server, outside):
    with sdk_client(server) as client:
        kept = client.sandboxes.create(timeout=600)
        sh(kept, "echo kept > /home/user/kept && sync")
        server.kill9()
        planted = plant(server, outside)
        server.start()
        outside.assert_untouched()
        assert sh(kept, "cat /home/user/kept") == "kept\n"
        made = client.sandboxes.create()
        assert sh(made, "echo works") == "works\n"
        made.delete()
        kept.delete()
    server.stop()
    outside.assert_untouched()
    left = [path for path in planted if path.is_symlink() or path.exists()]
    for path in left:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    # What does not even look like a disk or an archive is not the server's to remove.
    strange = [path for path in left if path.parent.name in ("disks", "archives")]
    assert [path for path in left if path not in strange or path.suffix == ".ext4" or path.name == "ckp-inside"] == []


def assert_refused(server: Server, place: Path) -> None:
    """The server does not start, and names the place that keeps it from that."""
    with pytest.raises(SystemExit) as refusal:
        server.start()
    assert str(place) in str(refusal.value)


def test_case_3_a_link_in_place_of_a_folder_is_refused(outside):
    server = Server(current().run_dir / "folders", NO_POOL).setup()
    try:
        for name in FOLDERS:
            folder = state(server) / name
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            aside = folder.rename(folder.with_name(f"{name}-aside"))
            folder.symlink_to(outside.path)
            assert_refused(server, folder)
            outside.assert_untouched()
            folder.unlink()
            aside.rename(folder)
        # Nothing else was wrong.
        server.start()
    finally:
        server.stop()


@pytest.fixture
def artifacts():
    """Artifacts of one test's own: the files are shared, the folders are not."""
    path = current().run_dir / "planted-artifacts"
    shutil.copytree(ARTIFACTS, path, copy_function=os.link, ignore=shutil.ignore_patterns("lock"))
    yield path
    shutil.rmtree(path)


def test_case_3_an_artifact_that_is_a_link_or_open_to_others_is_refused(artifacts):
    server = Server(current().run_dir / "planted", {**NO_POOL, "LEAPBOX_ARTIFACTS_DIR": str(artifacts)}).setup()
    (image,) = artifacts.glob("rootfs/*/root.erofs")
    original = image.rename(image.with_name("original"))
    try:
        image.symlink_to(original)
        assert_refused(server, image)
        image.unlink()
        # A copy: the file itself is every other test's.
        shutil.copyfile(original, image)
        for owner, mode in ((STRANGER, 0o644), (0, 0o666)):
            os.chown(image, owner, 0)
            image.chmod(mode)
            assert_refused(server, image)
        # Nothing else was wrong.
        original.replace(image)
        server.start()
    finally:
        server.stop()

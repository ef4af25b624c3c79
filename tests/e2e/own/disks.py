"""Data folders on disks of their own, which can be small, full, or lose what was not synced."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import current, wait_until


def run(*argv: object) -> None:
    subprocess.run(list(map(str, argv)), check=True)


@contextmanager
def mounted(*arguments: object) -> Iterator[None]:
    """`mount`s, its last argument being where, until the end of the `with`."""
    run("mount", *arguments)
    try:
        yield
    finally:
        # The kernel may still be taking down what a process had that was killed just now.
        wait_until("it is unmounted", lambda: subprocess.run(["umount", "-q", arguments[-1]]).returncode == 0)


def data_folder(name: str) -> Path:
    folder = current().run_dir / name
    folder.mkdir()
    return folder


def disk_of(size: str) -> Path:
    """A sparse file with an empty file system in it."""
    disk = current().run_dir / "disk.ext4"
    run("truncate", "-s", size, disk)
    run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", disk)
    return disk

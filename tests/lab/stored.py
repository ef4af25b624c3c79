"""What a server keeps of its paused sandboxes and snapshots, as it lies on the disk, and ways to damage it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.server import Server


def archives(server: Server) -> Path:
    """The folder with an archive for each checkpoint: of paused and stopped sandboxes, and of snapshots."""
    return server.data_dir / "state" / "archives"


def checkpoints(server: Server) -> set[str]:
    """The ids of all checkpoints that are there."""
    return {folder.name for folder in archives(server).glob("ckp-*")}


def unfinished(server: Server) -> set[str]:
    """What is being written, fetched or removed; after a crash, until the next start."""
    return {entry.name for entry in archives(server).glob(".*")} - {".lock"}


def files_of(archive: Path) -> list[Path]:
    """Every file of an archive that belongs to it: a note with a dot in its name says only where it was uploaded to."""
    return sorted(path for path in archive.iterdir() if path.name == "manifest.json" or "." not in path.name)


def flip_a_bit(path: Path) -> None:
    """In the middle of its first run of data."""
    with path.open("r+b") as file:
        start = os.lseek(file.fileno(), 0, os.SEEK_DATA)
        end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
        offset = (start + end) // 2
        (byte,) = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([byte ^ 0x10]), offset)


def cut_the_end_off(path: Path) -> None:
    """Its last byte is lost."""
    os.truncate(path, path.stat().st_size - 1)


@contextmanager
def damaged(path: Path, damage: Callable[[Path], None]) -> Iterator[None]:
    """The file is damaged within, and what it was afterwards."""
    content, info = path.read_bytes(), path.stat()
    damage(path)
    try:
        yield
    finally:
        path.write_bytes(content)
        os.chown(path, info.st_uid, info.st_gid)

"""Mistakes that an operator makes with a server's data folder, put right at the end of a `with`; and sandboxes whose
marks tell whether they have lost anything.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from lab import current
from lab.sandboxes import all_marks, leave_marks, marks


def state(server) -> Path:
    return server.data_dir / "state"


def copy_database(server) -> Path:
    """A backup of the database, as an operator makes one while the server runs."""
    copy = current().run_dir / f"{server.data_dir.name}-backup.db"
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(state(server) / "leapbox.db")) as database, closing(sqlite3.connect(copy)) as backup:
        database.backup(backup)
    return copy


@contextmanager
def exchanged_database(server, copy: Path | None) -> Iterator[None]:
    """The database of a server that does not run is another one (none: it is lost) within the `with`."""
    aside = current().run_dir / f"{server.data_dir.name}-aside"
    aside.mkdir()
    for file in state(server).glob("leapbox.db*"):
        shutil.move(file, aside / file.name)
    if copy:
        shutil.copy(copy, state(server) / "leapbox.db")
    try:
        yield
    finally:
        server.stop()
        for file in state(server).glob("leapbox.db*"):
            file.unlink()
        for file in aside.iterdir():
            shutil.move(file, state(server) / file.name)
        aside.rmdir()


@contextmanager
def moved(path: Path) -> Iterator[Path]:
    """The file or folder is somewhere else within the `with`."""
    elsewhere = path.with_name(f"{path.name}-elsewhere")
    path.rename(elsewhere)
    try:
        yield elsewhere
    finally:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        elsewhere.rename(path)


def created(client, count: int = 1) -> list:
    sandboxes = [client.sandboxes.create(timeout=3600) for _ in range(count)]
    for sandbox in sandboxes:
        leave_marks(sandbox, sandbox.id)
    return sandboxes


def assert_unharmed(sandboxes) -> None:
    for sandbox in sandboxes:
        assert marks(sandbox) == all_marks(sandbox.id)

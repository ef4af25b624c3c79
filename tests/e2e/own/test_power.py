"""A full disk, a power loss, a second server, a clock that jumps: cases 36, 47, 48 and 49."""

import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from e2e.conftest import running_server
from lab import Server, current, wait_until
from lab.clients import api_client, delete_all, sdk_client
from lab.footprint import vmm_pids
from lab.sandboxes import all_marks, leave_marks, marks, sh, state_of, vmm_pid
from lab.sdk import Leap0Error
from lab.stored import checkpoints, unfinished

MIB = 1024 * 1024
# What the server keeps free of its disk, whatever it is asked for.
KEPT_FREE_MIB = 1024
NO_POOL = {"LEAPBOX_POOL_SIZE": "0"}


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


@contextmanager
def nothing_left_running(server: Server) -> Iterator[None]:
    """However the `with` ends, neither the server nor a VMM of its runs afterwards and holds the disk."""
    others = vmm_pids()
    try:
        yield
    finally:
        if server.process.poll() is None:
            server.kill9()
        for pid in vmm_pids() - others:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until("no VMM holds the disk", lambda: not vmm_pids() - others)


def test_case_47_a_disk_that_is_full_refuses_the_pause_and_the_sandbox_runs_on():
    """What a disk does that is really full is shown in crates/storage: the server does not let it come to that."""
    folder, disk = data_folder("small"), disk_of("3G")
    with mounted("-o", "loop,noatime", disk, folder), running_server("small", NO_POOL) as server:
        with sdk_client(server) as client:
            sandbox = client.sandboxes.create(timeout=3600)
            leave_marks(sandbox, "kept")
            sh(sandbox, "head -c 64000000 /dev/urandom >/dev/shm/much")
            much = sh(sandbox, "sha256sum /dev/shm/much")
            fill = folder / "fill"
            room = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
            # Half of what is to be stored would fit: its size counts.
            run("fallocate", "-l", room - (KEPT_FREE_MIB + 32) * MIB, fill)
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
    folder.rmdir()
    disk.unlink()


def test_case_48_what_was_acknowledged_before_a_power_loss_is_there_after_it():
    """The data folder is a disk of its own, copied as its device has it: without what was not synced."""
    folder = data_folder("powerless")
    disk, after = disk_of("4G"), current().run_dir / "after.ext4"
    server = Server(folder, NO_POOL)
    with mounted("-o", "loop,noatime,commit=300", disk, folder):
        server.setup().start()
        with nothing_left_running(server), sdk_client(server) as client, api_client(server) as api:
            paused, source, stopped = (client.sandboxes.create(timeout=3600) for _ in range(3))
            for sandbox in (paused, source, stopped):
                leave_marks(sandbox, "kept")
            run("sync", "-f", folder)
            assert api.post(f"/v1/sandbox/{stopped.id}/stop").status_code == 200
            source.create_snapshot(name="durable", kill_sandbox_after=True)
            paused.pause()
            (folder / "canary").write_text("not synced")
            # Nothing is written while it is copied: a power loss is one moment.
            server.process.send_signal(signal.SIGSTOP)
            run("cp", "--sparse=always", disk, after)
    with mounted("-o", "loop", after, folder):
        canary = folder / "canary"
        assert not canary.exists() or canary.read_text() == "", "the copy has only what was synced"
        server.start()
        with nothing_left_running(server), sdk_client(server) as client, api_client(server) as api:
            assert state_of(client, paused.id) == "paused" and state_of(client, stopped.id) == "stopped"
            assert marks(client.sandboxes.get(paused.id)) == all_marks("kept")
            restored = client.snapshots.restore(snapshot_name="durable")
            assert marks(restored) == all_marks("kept")
            assert api.post(f"/v1/sandbox/{stopped.id}/start").status_code == 200
            assert marks(client.sandboxes.get(stopped.id))["disk"] == "kept"
            delete_all(client)
            server.stop()
    folder.rmdir()
    for file in (disk, after):
        file.unlink()


def test_case_49_a_second_server_on_the_same_data_folder_is_refused(server):
    with sdk_client(server) as client:
        running, paused = (client.sandboxes.create(timeout=3600) for _ in range(2))
        leave_marks(paused, "kept")
        paused.pause()
        second = Server(server.data_dir, NO_POOL)
        with pytest.raises(SystemExit):
            second.start()
        assert sh(running, "echo undisturbed") == "undisturbed\n"
        assert state_of(client, paused.id) == "paused" and marks(paused) == all_marks("kept")
        # The same one starts as soon as the first has ended: that was the reason.
        server.stop()
        second.start().stop()
        server.start()
        assert sh(running, "echo undisturbed") == "undisturbed\n"


def test_case_49_a_server_on_a_copy_of_the_data_folder_never_runs_a_sandbox_twice(server):
    own = {**NO_POOL, "LEAPBOX_LINK_BLOCK": "10.252.0.0/16", "LEAPBOX_BASE_UID": str(current().base_uid + 50_000)}
    # Another installation starts with these settings: whatever is refused below is refused for the copied folder.
    Server(current().run_dir / "another", own).setup().start().stop()
    with sdk_client(server) as client:
        running, paused = (client.sandboxes.create(timeout=3600) for _ in range(2))
        for sandbox in (running, paused):
            leave_marks(sandbox, "kept")
        pid = vmm_pid(server.data_dir, running.id)
        paused.pause()
        copy = current().run_dir / "copy"
        run("cp", "-a", "--sparse=always", server.data_dir, copy)
        second = Server(copy, own)
        with pytest.raises(SystemExit):
            second.start()
        second.stop()
        assert pid in vmm_pids() and marks(running) == all_marks("kept")
        assert marks(paused) == all_marks("kept")
        shutil.rmtree(copy)


@pytest.mark.production_driver
@pytest.mark.thorough
@pytest.mark.skipif(
    platform.node() != "kvmhost", reason="sets the machine's clock: only in the emulated host, which is nobody else's"
)
def test_case_36_the_clock_is_right_after_a_day_asleep(server):
    look = "python3 -c 'import time; print(time.time(), time.monotonic())'"
    with sdk_client(server) as client:
        sandbox = client.sandboxes.create(timeout=3600)
        _, monotonic = map(float, sh(sandbox, look).split())
        sandbox.pause()
        for days in (1, -1):
            time.clock_settime(time.CLOCK_REALTIME, time.time() + days * 86400)
            before = time.time()
            wall, later = map(float, sh(sandbox, look).split())
            # The call takes its time, in a guest that had to wake first.
            assert before - 2 <= wall <= time.time() + 2
            assert later > monotonic, "monotonic time ran back"
            monotonic = later
            sandbox.pause()
        sandbox.delete()

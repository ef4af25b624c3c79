"""A power loss, a second server, a clock that jumps while a sandbox is paused: cases 36, 48 and 49."""

import os
import platform
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from e2e.own.disks import data_folder, disk_of, mounted, run
from lab import Server, current, wait_until
from lab.clients import api_client, delete_all, sdk_client
from lab.footprint import vmm_pids
from lab.sandboxes import all_marks, leave_marks, marks, sh, state_of, vmm_pid

NO_POOL = {"LEAPBOX_POOL_SIZE": "0"}


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

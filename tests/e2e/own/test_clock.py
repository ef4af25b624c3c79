"""A server whose clock is set back a day and forward a year while it runs (case 49): no sandbox is lost by it.

The server alone sees the other clock: libfaketime gives it what a file says. The machine's clock is never set.
"""

from pathlib import Path

import pytest

from e2e.own.mistakes import assert_unharmed, created
from lab import current, wait_until
from lab.clients import api_client, sdk_client
from lab.sandboxes import leave_marks, marks, state_of
from lab.stored import checkpoints

SETTINGS = {"LEAPBOX_POOL_SIZE": "0", "LEAPBOX_GARBAGE_GRACE_DAYS": "7"}
# The variant for programs with threads, below the folder that the dynamic loader calls $LIB.
LIBRARY = "/usr/$LIB/faketime/libfaketimeMT.so.1"


class Clock:
    """The server's clock, by an offset that libfaketime takes from a file."""

    def __init__(self, file: Path):
        self._file = file
        self.set("+0")

    def set(self, offset: str) -> None:
        self._file.write_text(offset)

    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": LIBRARY,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            # What `adjtimex` or an operator sets is this clock alone.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@pytest.mark.timeout(300)
def test_case_49_a_clock_that_is_set_while_the_server_runs_costs_nothing(server):
    clock = Clock(current().run_dir / "clock")
    with sdk_client(server) as client, api_client(server) as api:
        server.stop()
        with server.environment(**clock.environment()):
            server.start()
            running, paused = created(client, 2)
            stopped = client.sandboxes.create(timeout=3600)
            leave_marks(stopped, stopped.id)
            snapshot = running.create_snapshot()
            paused.pause()
            assert api.post(f"/v1/sandbox/{stopped.id}/stop").status_code == 200
            soon = client.sandboxes.create(timeout=30)
            for offset in ("+1y", "-1d", "+0"):
                stored = checkpoints(server)
                clock.set(offset)
                assert state_of(client, running.id) == "running" and state_of(client, paused.id) == "paused"
                # The server's clock is the one that was set: it writes it beside whatever it makes.
                made = client.sandboxes.create(timeout=3600)
                print(f"{offset}: a sandbox is made at {made.created_at}")
                assert checkpoints(server) == stored, "nothing of what is stored was removed"
                assert_unharmed([running, paused])
                paused.pause()
                restored = client.snapshots.restore(snapshot_name=snapshot.name)
                assert marks(restored)["memory"] == running.id
                for sandbox in (made, restored):
                    sandbox.delete()
                # A restart, with the clock as it is: nothing is older or newer than what is known.
                server.restart()
                assert_unharmed([running, paused])
                paused.pause()
            wait_until("its half minute is over", lambda: state_of(client, soon.id) != "running", timeout=45)
            assert api.post(f"/v1/sandbox/{stopped.id}/start").status_code == 200
            assert marks(stopped)["disk"] == stopped.id
        server.restart()
        assert_unharmed([running, paused])

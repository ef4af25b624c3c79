"""What both kinds of end-to-end tests have in common: their servers, and the servers' logs when a test fails.

`shared/` drives one server, `own/` makes servers of its own and treats them badly. In both, at the end of a server's
life nothing of it may be left on the host.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import Server, current, footprint, patience, wait_until
from lab.clients import delete_all, sdk_client
from lab.footprint import Footprint

_servers: list[Server] = []


def pytest_collection_modifyitems(items):
    # Servers of their own come after the shared one has ended. Otherwise the order is that of the command line.
    items.sort(key=lambda item: Path(item.fspath).parent.name == "own")
    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = marker.args[0] if marker else float(item.config.getini("timeout"))
        item.add_marker(pytest.mark.timeout(patience(seconds)), append=False)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    report = (yield).get_result()
    if report.failed:
        for server in _servers:
            report.sections.append((f"log of {server.data_dir.name}", server.log_tail()))


@contextmanager
def running_server(name: str, settings: dict[str, str] | None = None) -> Iterator[Server]:
    """A server for the length of a `with`; what it leaves on the host is a failure."""
    before = footprint.take(current().run_dir)
    server = Server(current().run_dir / name, settings).setup()
    _servers.append(server)
    try:
        yield server.start()
        if server.process.poll() is None:
            with sdk_client(server) as client:
                delete_all(client)
        server.stop()
        assert_nothing_is_left(server, before)
    except BaseException:
        end_with_its_machines(server)
        raise
    finally:
        _servers.remove(server)


def assert_nothing_is_left(server: Server, before: Footprint) -> None:
    """The kernel removes interfaces and namespaces in its own time, which is late on a busy host."""

    def left() -> dict[str, list[str]]:
        return footprint.take(current().run_dir).what_is_new_since(before)

    with contextlib.suppress(AssertionError):
        wait_until("nothing is left", lambda: not left(), timeout=15, interval=0.2)
    found = left()
    assert not found, f"{server.data_dir.name} left behind: {found}\n{server.log_tail()}"


def end_with_its_machines(server: Server) -> None:
    """After a failure: sandboxes outlive their server, and would take CPU and memory from all tests after this one."""
    try:
        server.stop()
    except subprocess.TimeoutExpired:
        server.kill9()
    for pid in footprint.vmm_pids_of(server.data_dir):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

"""What both kinds of end-to-end tests have in common: their order, and the servers' logs when one fails.

`shared/` drives one server, `own/` makes servers of its own and treats them badly. In both, at the end of a server's
life nothing of it may be left on the host.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import Server, current, footprint, patience
from lab.clients import delete_all, sdk_client

# Cheap ones first: what breaks everything breaks early. Servers of their own come after the shared one has ended.
BASICS = "validation life process filesystem list auth gateway gateway_walls network"
EGRESS = " ".join(f"egress_{part}" for part in "policy walls names proxy transforms secrets metrics life".split())
SLEEP = "pause snapshots stop strangers chain continuity storms"
ORDER = f"{BASICS} {EGRESS} {SLEEP} walls floods hostile_guest clones doctor".split()
_servers: list[Server] = []


def pytest_collection_modifyitems(items):
    def rank(item):
        path = Path(item.fspath)
        name = path.stem.removeprefix("test_")
        return path.parent.name == "own", ORDER.index(name) if name in ORDER else len(ORDER)

    items.sort(key=rank)
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
    server = Server(current().run_dir / name, settings).setup().start()
    _servers.append(server)
    try:
        yield server
        if server.process.poll() is None:
            with sdk_client(server) as client:
                delete_all(client)
    finally:
        server.stop()
        _servers.remove(server)
    left = footprint.take(current().run_dir).what_is_new_since(before)
    assert not left, f"{name} left behind: {left}\n{server.log_tail()}"

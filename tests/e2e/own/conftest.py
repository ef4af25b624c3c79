"""Servers of a file's own, to be limited, filled or killed."""

import itertools

import pytest

from e2e.conftest import running_server
from lab.clients import delete_all, sdk_client

_numbers = itertools.count(1)
# Machines kept ready that nobody asks for cost the other labs their time.
_SMALL_POOL = {"LEAPBOX_POOL_SIZE": "1"}


@pytest.fixture(scope="module")
def own_server(request):
    """A server that only the tests of one file use; `SETTINGS` in the file adds to its environment."""
    settings = {**_SMALL_POOL, **getattr(request.module, "SETTINGS", {})}
    # Short: paths of sockets below the data folder have at most 108 bytes.
    with running_server(f"own{next(_numbers)}", settings) as made:
        yield made


@pytest.fixture
def server(own_server):
    """The file's server: it runs, and nothing is left of the test before, however that one ended."""
    if own_server.process.poll() is not None:
        own_server.start()
    with sdk_client(own_server) as client:
        delete_all(client)
    return own_server

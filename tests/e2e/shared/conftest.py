"""One server for all tests of this folder, on the product's default ports.

The SDK is pointed at it by nothing but the variables that `leapbox env` prints.
"""

import os

import pytest

from e2e.conftest import running_server
from lab import Server, addresses
from lab.clients import api_client, delete_if_there, web_client
from lab.sandboxes import start_app
from lab.sdk import AsyncLeap0Client, Leap0Client

SETTINGS = {
    # Opened to policies that name it, and to no other: every other test shows that this alone opens nothing.
    "LEAPBOX_EGRESS_PRIVATE_CIDRS": f"{addresses.OPENED_BY_OPERATOR}/32",
    # Enough for tests that make one or two. Each more is a virtual machine that costs CPU and is used by nobody.
    "LEAPBOX_POOL_SIZE": "3",
}


@pytest.fixture(scope="package")
def server():
    with running_server("main", SETTINGS) as made:
        before = dict(os.environ)
        os.environ.update(made.env())
        yield made
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def client(server):
    with Leap0Client() as made:
        yield made


@pytest.fixture
async def async_client(server):
    async with AsyncLeap0Client() as made:
        yield made


@pytest.fixture
def sandbox(client):
    made = client.sandboxes.create()
    yield made
    delete_if_there(made)


@pytest.fixture(scope="module")
def shared_sandbox(server):
    """One sandbox for a module's tests that do not disturb each other."""
    with Leap0Client() as client:
        made = client.sandboxes.create(timeout=3600)
        yield made
        delete_if_there(made)


@pytest.fixture
def api(server: Server):
    """Plain HTTP to the control plane, with the key."""
    with api_client(server) as made:
        yield made


@pytest.fixture(scope="module")
def web(server: Server):
    """HTTPS to sandboxes' hostnames, with the key."""
    with web_client(server) as made:
        yield made


@pytest.fixture(scope="module")
def app(shared_sandbox, web):
    """The base URL of the small application in the shared sandbox, listening on loopback only."""
    return start_app(shared_sandbox, web)


@pytest.fixture(scope="module")
def key(server: Server) -> str:
    return server.env()["LEAP0_API_KEY"]

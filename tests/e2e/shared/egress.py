"""Sandboxes under policies, for the tests of what leaves them."""

from collections.abc import Iterator
from contextlib import contextmanager

from lab import Capture, Server, addresses, current
from lab.clients import delete_if_there, sdk_client
from lab.sdk import Leap0Client, NetworkPolicyMode

DENY_ALL = {"mode": NetworkPolicyMode.DENY_ALL}
ALLOW_ALL = {"mode": NetworkPolicyMode.ALLOW_ALL}
LAB_CA = "/tmp/lab-ca.pem"
# A filter for what leaves the host, but for its own resets of connections whose sandbox is gone.
LEAVING = f"ip src host {addresses.HOST_UPLINK} and not (tcp and tcp[tcpflags] & tcp-rst != 0)"


def custom(*domains: str, cidrs: tuple[str, ...] = (), transforms: tuple[dict, ...] = ()) -> dict:
    """A custom policy, as the SDK takes it."""
    lists = {"allow_domains": list(domains), "allow_cidrs": list(cidrs), "transforms": list(transforms)}
    return {"mode": NetworkPolicyMode.CUSTOM, **{name: entries for name, entries in lists.items() if entries}}


@contextmanager
def sandbox_under(policy: dict | None, server: Server | None = None) -> Iterator:
    """A sandbox (of the shared server, if none is named) that has the certificate of the fake internet's CA."""
    with sdk_client(server) if server else Leap0Client() as client:
        made = client.sandboxes.create(timeout=3600, network_policy=policy)
        try:
            made.filesystem.write_file(path=LAB_CA, content=(current().run_dir / "lab-ca.pem").read_text())
            yield made
        finally:
            delete_if_there(made)


@contextmanager
def nothing_leaves_for(*hosts: str) -> Iterator[Capture]:
    """Not one packet to or from the hosts passes the host's link within."""
    with current().capture(" or ".join(f"host {host}" for host in hosts)) as capture:
        yield capture
    assert capture.packets == [], "packets that must not leave the host"


@contextmanager
def what_is_asked_outside() -> Iterator[list[dict]]:
    """The questions that reach the fake internet's name servers within."""
    before, asked = len(current().internet_questions()), []
    yield asked
    asked += current().internet_questions()[before:]


@contextmanager
def what_is_requested_outside() -> Iterator[list[dict]]:
    """What the fake internet's servers are told within."""
    before, told = len(current().internet_requests()), []
    yield told
    told += current().internet_requests()[before:]

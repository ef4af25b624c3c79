"""Sandboxes under policies, for the tests of what leaves them."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from lab import Capture, Server, addresses, current, patience, wait_until
from lab.clients import delete_if_there, sdk_client
from lab.sdk import Leap0Client, NetworkPolicyMode

DENY_ALL = {"mode": NetworkPolicyMode.DENY_ALL}
ALLOW_ALL = {"mode": NetworkPolicyMode.ALLOW_ALL}
LAB_CA = "/tmp/lab-ca.pem"
# Silent but for errors, and with a deadline.
CURL = f"curl -sS -m {math.ceil(patience(20))}"
# How a connection ends that is refused. One that is merely lost ends by a time-out, which shows nothing.
CUT = ("reset", "closed", "refused")
# A filter for what leaves the host, whatever source it names: but for what any Linux says on its own link, and for the
# host's own resets of connections whose sandbox is gone.
_LINK = "arp or (ip6 and (net fe80::/10 or net ff00::/8))"
_RESETS = f"ip src host {addresses.HOST_UPLINK} and tcp and tcp[tcpflags] & tcp-rst != 0"
LEAVING = f"ether src {addresses.HOST_MAC} and not ({_LINK}) and not ({_RESETS})"


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


def denials(server: Server, sandbox) -> dict[str, float]:
    """Rule → how often it has denied something to a sandbox."""
    return _numbers(server, sandbox, "egress_denied_total", "rule")


def connections(server: Server, sandbox) -> dict[str, float]:
    """Kind → how many connections of a sandbox the proxy has let through."""
    return _numbers(server, sandbox, "egress_connections_total", "kind")


def _numbers(server: Server, sandbox, series: str, label: str) -> dict[str, float]:
    page = httpx.get(f"http://{server.metrics_address}/metrics", timeout=patience(10)).text
    found = re.findall(rf"^leapbox_{series}{{([^}}]*)}} (\S+)$", page, re.MULTILINE)
    labelled = ((dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)) for labels, value in found)
    return {labels[label]: value for labels, value in labelled if labels["sandbox"] == sandbox.id}


@contextmanager
def denied_within(server: Server, sandbox, **at_least: int) -> Iterator[None]:
    """The proxy, the resolver or the kernel denies so much by these rules within: what was tried did arrive there."""
    before = denials(server, sandbox)
    yield

    def since() -> dict[str, float]:
        return {rule: count - before.get(rule, 0) for rule, count in denials(server, sandbox).items()}

    wait_until(f"{at_least} denied", lambda: all(since().get(rule, 0) >= least for rule, least in at_least.items()))

"""What no policy lets through: cases 8, 10, 12, 13, 17 and 18, from a guest's root, judged by a packet capture."""

import shlex
import socket

import pytest

from e2e.shared.egress import (
    CURL,
    DENY_ALL,
    LEAVING,
    custom,
    denied_within,
    nothing_leaves_for,
    sandbox_under,
    what_is_asked_outside,
)
from lab import addresses, current, patience
from lab.reach import REFUSED, dns, get, http, https, ping, reach, tcp, tls, udp
from lab.sandboxes import sh

OUTSIDE = "2606:2800:220:1::1"
PROXY_PORT = 15001
# Of a service of the host that nobody else in the lab uses.
SERVICE_PORT = 7778


@pytest.fixture(scope="module")
def denied(server):
    with sandbox_under(DENY_ALL) as made:
        yield made


@pytest.fixture(scope="module")
def named(server):
    """Two names' worth of domains, and no address."""
    with sandbox_under(custom("example.com", "*.example.com")) as made:
        yield made


@pytest.fixture(scope="module")
def ranged(server):
    """One address, and no name."""
    with sandbox_under(custom(cidrs=(f"{addresses.EXAMPLE_NET}/32",))) as made:
        yield made


@pytest.mark.production_driver
@pytest.mark.thorough
def test_case_10_under_deny_all_nothing_leaves_whatever_the_guest_sends(denied):
    with current().capture(LEAVING) as capture, what_is_asked_outside() as asked:
        found = reach(
            denied,
            web=http("example.com"),
            tls=https("example.com"),
            raw=tcp(addresses.EVIL, addresses.ECHO_PORT, "anybody there?"),
            first=tcp(addresses.SSH, addresses.SSH_PORT),
            **{f"udp{port}": udp(addresses.EXAMPLE_COM, port) for port in addresses.UDP_ECHO_PORTS},
            ping=ping(addresses.EXAMPLE_COM),
            other_resolver=dns("example.com", server=addresses.DNS_SERVERS[0]),
            other_resolver_tcp=dns("example.com", server=addresses.DNS_SERVERS[0], transport="tcp"),
            name=dns("example.com"),
            name_tcp=dns("example.com", transport="tcp"),
        )
    name, name_tcp = found.pop("name"), found.pop("name_tcp")
    assert [name.json["code"], name_tcp.json["code"]] == [REFUSED, REFUSED], "told at once, by our own name server"
    assert {what: answer for what, answer in found.items() if answer.reached} == {}
    assert capture.packets == [] and asked == []


def test_under_deny_all_tcp_and_udp_are_refused_at_once_and_not_left_to_time_out(denied):
    found = reach(denied, web=http("example.com"), udp=udp(addresses.EXAMPLE_COM, addresses.ECHO_PORT), seconds=8)
    assert "timeout" not in {answer.how for answer in found.values()}, found


def test_case_12_other_resolvers_are_not_reached_in_any_of_their_ways(named):
    secret, resolver = "stolen.tunnel.example.org", addresses.DNS_SERVERS[0]
    # The server's own resolver asks there on port 53, so that on that port the questions tell.
    others = "port 853 or port 5353 or port 5355 or (tcp port 443 and host 1.1.1.1) or net 224.0.0.0/4"
    with current().capture(others) as capture, what_is_asked_outside() as asked:
        found = reach(
            named,
            udp=dns(secret, "TXT", server=resolver),
            tcp=dns(secret, "TXT", server=resolver, transport="tcp"),
            over_tls=tls("one.one.one.one", get("one.one.one.one"), resolver, port=853),
            over_https=https("one.one.one.one", "/dns-query", resolver),
            over_https_by_number=tls(None, get(resolver), resolver),
            mdns=udp("224.0.0.251", 5353, "\0" * 12),
            llmnr=udp("224.0.0.252", 5355, "\0" * 12),
            allowed=https("example.com"),
        )
    assert found.pop("allowed").server == addresses.EXAMPLE_COM, "the probe itself works"
    assert {what: answer for what, answer in found.items() if answer.reached} == {}
    assert capture.packets == []
    assert [question for question in asked if question["name"] == secret] == []


def spellings(address: str) -> list[str]:
    """An IPv4 address in the ways that programs accept."""
    parts = [int(part) for part in address.split(".")]
    number = int.from_bytes(bytes(parts), "big")
    octal = ".".join(f"0{part:o}" for part in parts)
    return [address, str(number), hex(number), octal, f"{parts[0]}.{number & 0xFFFFFF}", f"[::ffff:{address}]"]


def test_case_13_an_address_is_no_name_however_it_is_spelt(named, server):
    literals = spellings(addresses.EVIL) + spellings(addresses.EXAMPLE_COM)
    # Over HTTP and over HTTPS. What curl makes of an IPv4 address in the form of IPv6 is its own business.
    arrive = 2 * len([literal for literal in literals if ":" not in literal])
    with (
        nothing_leaves_for(addresses.EVIL, addresses.EXAMPLE_COM),
        denied_within(server, named, no_name=arrive, not_a_name=1),
    ):
        urls = " ".join(f"-o /dev/null '{scheme}://{literal}/'" for literal in literals for scheme in ("http", "https"))
        statuses = sh(named, f"{CURL} -Z -g -k -w '%{{http_code}} ' {urls} 2>/dev/null || true", timeout=120).split()
        found = reach(
            named,
            mapped=tcp(f"::ffff:{addresses.EVIL}", 80, get("evil.example.org")),
            name_server=dns(addresses.EXAMPLE_COM),
        )
    assert len(statuses) == 2 * len(literals) and "200" not in statuses, statuses
    assert found["name_server"].json["code"] == REFUSED
    assert not found["mapped"].reached


# What a root does for IPv6: an address, a neighbour and a route. A name is asked first: then its neighbour is known.
ROUTED = """
set -e
getent ahostsv4 example.com >/dev/null
for place in all eth0; do echo 0 >/proc/sys/net/ipv6/conf/$place/disable_ipv6; done
ip -6 addr replace fd00::2/64 dev eth0 nodad
ip -6 addr replace 2606:2800:220:9::2/64 dev eth0 nodad
ip -6 neigh replace fe80::1 lladdr $(ip -4 neigh show dev eth0 | awk '/lladdr/ {print $3; exit}') dev eth0
ip -6 route replace default via fe80::1 dev eth0
"""


@pytest.mark.parametrize("policy", ["named", "allow-all"])
def test_case_17_ipv6_leads_nowhere(request, policy, shared_sandbox):
    sandbox = shared_sandbox if policy == "allow-all" else request.getfixturevalue(policy)
    sh(sandbox, f"sudo sh -c {shlex.quote(ROUTED)}")
    assert "via fe80::1" in sh(sandbox, f"ip -6 route get {OUTSIDE}")
    with current().capture("ip6 and not (net fe80::/10 or net ff00::/8)") as capture:
        found = reach(
            sandbox,
            tcp=tcp(OUTSIDE, 80, get("six.example.com")),
            udp=udp(OUTSIDE, addresses.ECHO_PORT),
            neighbour=udp("fd00::1", addresses.ECHO_PORT),
            resolver=dns("example.com", server="2606:4700:4700::1111"),
            four=dns("six.example.com"),
            six=dns("six.example.com", "AAAA"),
        )
    assert found["four"].json["answers"] == [addresses.EXAMPLE_COM], "the sandbox has a network"
    if policy == "named":
        assert (found["six"].json["code"], found["six"].json["answers"]) == (0, []), "known not to be there"
    assert not any(found[what].reached for what in ("tcp", "udp", "neighbour", "resolver")), found
    assert capture.packets == []


def test_case_18_the_hosts_own_metadata_is_out_of_reach(named):
    with nothing_leaves_for(addresses.METADATA):
        found = reach(
            named,
            by_number=http(addresses.METADATA, "/latest/meta-data/", addresses.METADATA),
            by_name=http("metadata.example.com", "/latest/meta-data/", addresses.METADATA),
            by_other_name=http("metadata.example.com", "/latest/meta-data/", addresses.EXAMPLE_COM),
            by_tls=https("metadata.example.com", "/latest/meta-data/", addresses.METADATA),
            echo=tcp(addresses.METADATA, addresses.ECHO_PORT, "hello", until="hello"),
            udp=udp(addresses.METADATA, 53),
            name=dns("metadata.example.com"),
            control=http("example.com"),
        )
    assert found.pop("control").server == addresses.EXAMPLE_COM, "the probe itself works"
    assert addresses.METADATA not in found.pop("name").json["answers"]
    assert {what: answer for what, answer in found.items() if answer.reached} == {}


@pytest.mark.parametrize("policy", ["named", "ranged"])
def test_case_8_neither_the_proxy_nor_a_service_of_the_host_is_there_to_be_spoken_to(request, policy):
    sandbox = request.getfixturevalue(policy)
    gateway = sh(sandbox, "ip -4 route show default | awk '{print $3}'").strip()
    control = {"named": http("example.com"), "ranged": http("any.example.org", address=addresses.EXAMPLE_NET)}[policy]
    with socket.create_server(("0.0.0.0", SERVICE_PORT)) as service:
        service.settimeout(patience(5))
        for address in (addresses.HOST_UPLINK, addresses.HOST_LAN, addresses.LOOPBACK):
            socket.create_connection((address, SERVICE_PORT), timeout=patience(5)).close()
            # The host itself reaches it.
            service.accept()[0].close()
        found = reach(
            sandbox,
            control=control,
            proxy=tcp(gateway, PROXY_PORT, get("localhost")),
            proxy_by_name=http("example.com", address=gateway, port=PROXY_PORT),
            **{f"at {address}": tcp(address, SERVICE_PORT, get("localhost"))
               for address in (gateway, addresses.HOST_UPLINK, addresses.HOST_LAN)},
            **{f"as {host}": http(host, port=SERVICE_PORT, address=addresses.EVIL)
               for host in ("host.example.com", "lan.example.com", "loopback.example.com")},
        )  # fmt: skip
        service.settimeout(0)
        with pytest.raises(BlockingIOError):
            service.accept()
    assert found.pop("control").reached, "the probe itself works"
    assert {what: answer for what, answer in found.items() if answer.reached} == {}

"""What no policy lets through: cases 8, 10, 12, 13, 17, 18 and 21, from a guest's root, judged by a packet capture."""

import shlex

import pytest

from e2e.shared.egress import DENY_ALL, LEAVING, custom, nothing_leaves_for, sandbox_under, what_is_asked_outside
from lab import addresses, current
from lab.reach import REFUSED, dns, get, http, https, ping, reach, tcp, tls, udp
from lab.sandboxes import sh

OUTSIDE = "2606:2800:220:1::1"
PROXY_PORT = 15001


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


@pytest.mark.production_driver
@pytest.mark.thorough
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


def test_case_13_an_address_is_no_name_however_it_is_spelt(named):
    literals = spellings(addresses.EVIL) + spellings(addresses.EXAMPLE_COM)
    with nothing_leaves_for(addresses.EVIL, addresses.EXAMPLE_COM):
        urls = " ".join(f"-o /dev/null '{scheme}://{literal}/'" for literal in literals for scheme in ("http", "https"))
        statuses = sh(named, f"curl -Z -s -g -k -m 30 -w '%{{http_code}} ' {urls} || true", timeout=120).split()
        asked_for = [(address, literal) for address in (addresses.EVIL, addresses.EXAMPLE_COM) for literal in literals]
        found = reach(
            named,
            **{f"{address} as {literal}": http(literal, address=address) for address, literal in asked_for},
            mapped=tcp(f"::ffff:{addresses.EVIL}", 80, get("evil.example.org")),
            name_server=dns(addresses.EXAMPLE_COM),
        )
    assert len(statuses) == 2 * len(literals) and "200" not in statuses, statuses
    assert found.pop("name_server").json["code"] == REFUSED
    assert {what: answer for what, answer in found.items() if answer.reached} == {}


@pytest.mark.parametrize("policy", ["named", "allow-all"])
def test_case_17_ipv6_leads_nowhere(request, policy, shared_sandbox):
    sandbox = shared_sandbox if policy == "allow-all" else request.getfixturevalue(policy)
    # Whatever a root does for an address, a route and a neighbour: there is no IPv6 beyond its own link.
    routed = (
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=0; ip -6 addr add fd00::2/64 dev eth0 nodad; "
        "ip -6 addr add 2606:2800:220:9::2/64 dev eth0 nodad; "
        "ip -6 neigh replace fe80::1 lladdr $(ip -4 neigh show dev eth0 | awk '/lladdr/ {print $3; exit}') dev eth0; "
        "ip -6 route replace default via fe80::1 dev eth0"
    )
    sandbox.process.execute(command=f"sudo sh -c {shlex.quote(routed)}")
    with current().capture("ip6 and not (net fe80::/10 or net ff00::/8)") as capture:
        found = reach(
            sandbox,
            tcp=tcp(OUTSIDE, 80, get("six.example.com")),
            udp=udp(OUTSIDE, addresses.ECHO_PORT),
            neighbour=udp("fd00::1", addresses.ECHO_PORT),
            resolver=dns("example.com", server="2606:4700:4700::1111"),
            four=dns("six.example.com") if policy == "named" else ping("127.0.0.1"),
            six=dns("six.example.com", "AAAA"),
        )
    if policy == "named":
        assert found["four"].json["answers"] == [addresses.EXAMPLE_COM]
        assert found["six"].json == {**found["six"].json, "code": 0, "answers": []}, "known not to be there"
    assert not any(found[what].reached for what in ("tcp", "udp", "neighbour", "resolver")), found
    assert capture.packets == []


@pytest.mark.parametrize("policy", ["named", "ranged", "allow-all"])
def test_case_18_the_hosts_own_metadata_is_out_of_reach(request, policy, shared_sandbox):
    sandbox = shared_sandbox if policy == "allow-all" else request.getfixturevalue(policy)
    with nothing_leaves_for(addresses.METADATA):
        found = reach(
            sandbox,
            by_number=http(addresses.METADATA, "/latest/meta-data/", addresses.METADATA),
            by_name=http("metadata.example.com", "/latest/meta-data/", addresses.METADATA),
            by_other_name=http("metadata.example.com", "/latest/meta-data/", addresses.EXAMPLE_COM),
            by_tls=https("metadata.example.com", "/latest/meta-data/", addresses.METADATA),
            echo=tcp(addresses.METADATA, addresses.ECHO_PORT, "hello", until="hello"),
            udp=udp(addresses.METADATA, 53),
            name=dns("metadata.example.com"),
        )
    assert addresses.METADATA not in found.pop("name").json["answers"]
    by_other_name = found.pop("by_other_name")
    if policy == "allow-all":
        assert by_other_name.server == addresses.EXAMPLE_COM, "a Host header is nothing to an opaque way"
    assert "secret" not in by_other_name.data
    assert {what: answer for what, answer in found.items() if answer.reached} == {}
    assert not found["echo"].reached and not found["udp"].reached


def test_case_21_quic_is_closed_and_other_udp_goes_where_an_address_is_allowed(named, ranged):
    with current().capture("udp port 443") as capture:
        by_name = reach(named, quic=udp(addresses.EXAMPLE_COM, 443), other=udp(addresses.EXAMPLE_COM, 5000))
        by_address = reach(
            ranged,
            quic=udp(addresses.EXAMPLE_NET, 443),
            other=udp(addresses.EXAMPLE_NET, 5000),
            ping=ping(addresses.EXAMPLE_NET),
            tls=tls("whatever.example.org", get("x"), addresses.EXAMPLE_NET),
        )
    assert capture.packets == []
    assert {what: answer.reached for what, answer in by_name.items()} == {"quic": False, "other": False}
    quic = by_address.pop("quic")
    assert not quic.reached and quic.how != "timeout", "told at once, so that clients fall back to TCP"
    assert {what for what, answer in by_address.items() if not answer.reached} == set()


@pytest.mark.parametrize("policy", ["named", "ranged"])
def test_case_8_neither_the_proxy_nor_a_service_of_the_host_is_there_to_be_spoken_to(request, policy, server):
    sandbox = request.getfixturevalue(policy)
    gateway = sh(sandbox, "ip -4 route show default | awk '{print $3}'").strip()
    api_port = int(server.api_address.split(":")[1])
    places = [(address, port) for address in (gateway, addresses.HOST_UPLINK, addresses.HOST_LAN) for port in (
        PROXY_PORT, api_port, server.gateway_port)]  # fmt: skip
    found = reach(
        sandbox,
        **{f"{address}:{port}": tcp(address, port, get("localhost", "/healthz")) for address, port in places},
        **{f"{host} {port}": http(host, "/healthz", port=port, address=addresses.EVIL)
           for host in ("host.example.com", "lan.example.com", "loopback.example.com")
           for port in (api_port, server.gateway_port)},
        proxy_by_name=http("example.com", address=gateway, port=PROXY_PORT),
    )  # fmt: skip
    assert {what: answer for what, answer in found.items() if answer.reached} == {}

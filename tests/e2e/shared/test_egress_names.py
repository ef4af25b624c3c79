"""Names under a policy: cases 11, 16 and 26, and what a resolver of one's own policy answers, asked by hand."""

import time

import pytest

from e2e.shared.egress import custom, denied_within, nothing_leaves_for, sandbox_under, what_is_asked_outside
from lab import addresses, wait_until
from lab.clients import api_client
from lab.reach import NOT_IMPLEMENTED, PROHIBITED, REFUSED, dns, http, https, reach
from lab.sandboxes import sh
from lab.sdk import Leap0Client

# The longest that a label and a name may be.
LONG = f"{'a' * 63}.{'b' * 63}.{'c' * 63}.tunnel.example.org"
# What the resolver lets a custom policy ask at once, and a second.
BURST, RATE = 150, 30
INSIDE = (addresses.METADATA, *addresses.PRIVATE, addresses.LINK_LOCAL)


@pytest.fixture(scope="module")
def exact(server):
    policy = {"mode": "custom", "allow_domains": ["Example.COM.", "bücher.example"]}
    # The SDK itself refuses these spellings; the API understands them.
    with api_client(server) as api, Leap0Client() as client:
        created = api.post("/v1/sandbox", json={"timeout": 3600, "network_policy": policy})
        assert created.status_code == 201, created.text
        yield client.sandboxes.get(created.json()["id"])
        client.sandboxes.delete(created.json()["id"])


@pytest.fixture(scope="module")
def below(server):
    with sandbox_under(custom("*.example.com")) as made:
        yield made


@pytest.fixture(scope="module")
def inside(server):
    """May enter one private network that the operator has opened, and names another that he has not."""
    with sandbox_under(custom("*.example.com", cidrs=(f"{addresses.OPENED_BY_OPERATOR}/32",))) as made:
        yield made


EXACT = {
    "example.com": True,
    "EXAMPLE.com": True,
    "example.com.": True,
    "xn--bcher-kva.example": True,
    "www.example.com": False,
    "evilexample.com": False,
    "example.net": False,
    "com": False,
}
BELOW = {
    "www.example.com": True,
    "WWW.Example.Com.": True,
    "deep.down.example.com": True,
    "example.com": False,
    "EXAMPLE.COM.": False,
    "evilexample.com": False,
    "evil.example.org": False,
    "xn--bcher-kva.example": False,
}


@pytest.mark.parametrize(("policy", "table"), [("exact", EXACT), ("below", BELOW)])
def test_case_26_a_pattern_allows_exactly_these_names_to_ask_for_in_tls_and_in_http(request, policy, table):
    sandbox = request.getfixturevalue(policy)
    with nothing_leaves_for(addresses.EVIL, addresses.EXAMPLE_NET), what_is_asked_outside() as asked:
        found = reach(
            sandbox,
            **{f"dns {name}": dns(name) for name in table},
            **{f"http {name}": http(name) for name in table},
            # In a ClientHello a trailing dot is not allowed (RFC 6066).
            **{f"tls {name}": https(name) for name in table if not name.endswith(".")},
        )
    for name, allowed in table.items():
        assert found[f"dns {name}"].json["code"] == (0 if allowed else REFUSED), name
        assert (found[f"http {name}"].status == 200) == allowed, (name, found[f"http {name}"])
        if not name.endswith("."):
            assert (found[f"tls {name}"].status == 200) == allowed, (name, found[f"tls {name}"])
    may_be_asked = {name.lower().rstrip(".") for name, allowed in table.items() if allowed}
    assert {question["name"] for question in asked} == may_be_asked


def stolen(types: tuple[str, ...], transport: str) -> dict[str, dict]:
    """Questions of these types for a name that carries data out."""
    return {f"{kind} {transport}": dns("stolen.tunnel.example.org", kind, transport=transport) for kind in types}


def test_case_11_a_tunnel_through_names_that_are_not_allowed_ends_at_our_own_resolver(below):
    types = ("A", "TXT", "NULL", "CNAME", "MX", "NS", "ANY", "HTTPS", "AAAA")
    with what_is_asked_outside() as asked:
        found = reach(below, long=dns(LONG, "TXT"), root=dns("", "NS"), **stolen(types, "udp"))
        # A slot has a few connections to its resolver, and more than those are reset.
        for some in (types[:3], types[3:6], types[6:]):
            found |= reach(below, **stolen(some, "tcp"))
    for way in ("udp", "tcp"):
        assert found.pop(f"ANY {way}").json["code"] in (REFUSED, NOT_IMPLEMENTED)
    assert {what: answer for what, answer in found.items() if answer.json["code"] != REFUSED} == {}
    assert asked == []


def test_a_long_answer_is_cut_over_udp_and_whole_over_tcp_and_beyond_the_limit_it_does_not_come_in(below):
    found = reach(
        below,
        udp=dns("big.example.com", "TXT"),
        tcp=dns("big.example.com", "TXT", transport="tcp"),
        huge=dns("huge.example.com", "TXT", transport="tcp"),
    )
    assert found["udp"].json["cut"] and found["udp"].json["size"] <= 1232, found["udp"]
    assert len(found["tcp"].json["answers"]) == 12, found["tcp"]
    huge = found["huge"].json
    assert (huge["code"], huge["cut"], huge["answers"]) == (0, True, []), huge


def test_a_name_that_is_not_allowed_is_told_to_be_prohibited_and_an_alias_is_followed_wherever_it_leads(below):
    found = reach(
        below,
        evil=dns("evil.example.org"),
        udp=dns("alias.example.com"),
        tcp=dns("alias.example.com", transport="tcp"),
    )
    evil = found.pop("evil").json
    assert (evil["code"], evil["ede"]) == (REFUSED, PROHIBITED), evil
    for answer in found.values():
        assert answer.json["code"] == 0 and addresses.EXAMPLE_NET in answer.json["answers"], answer


def test_hints_for_encrypted_hellos_and_http3_are_gone(below):
    with what_is_asked_outside() as asked:
        found = reach(below, **{kind: dns("ech.example.com", kind) for kind in ("HTTPS", "SVCB", "AAAA")})
    told = {kind: (answer.json["code"], answer.json["answers"]) for kind, answer in found.items()}
    assert told == {kind: (0, []) for kind in ("HTTPS", "SVCB", "AAAA")}
    assert asked == []


def test_case_16_a_name_that_leads_inside_leads_nowhere(below):
    names = [
        f"{what}.example.com" for what in ("private", "private-alias", "loopback", "linklocal", "metadata", "opened")
    ]
    with nothing_leaves_for(*INSIDE):
        found = reach(
            below,
            **{f"dns {name}": dns(name) for name in names},
            **{f"http {name}": http(name, address=addresses.EXAMPLE_COM) for name in names},
            **{f"tls {name}": https(name, address=addresses.EXAMPLE_COM) for name in names},
            mixed=dns("mixed.example.com"),
            mixed_http=http("mixed.example.com", address=addresses.PRIVATE[0]),
        )
    assert found.pop("mixed").json["answers"] == [addresses.EXAMPLE_COM], "the private one is taken out"
    assert found.pop("mixed_http").server == addresses.EXAMPLE_COM
    for name in names:
        told = found.pop(f"dns {name}").json
        found_addresses = [answer for answer in told["answers"] if isinstance(answer, str)]
        assert (told["code"], found_addresses) == (0, []), (name, told)
    assert {what: answer for what, answer in found.items() if answer.reached} == {}


def test_case_16_a_name_that_is_public_first_and_private_then_stays_outside(below):
    name = "first.flip.example.com"
    with nothing_leaves_for(*INSIDE):
        # One after the other: each question may be the one that turns it.
        assert reach(below, dns=dns(name))["dns"].json["answers"] == [addresses.EXAMPLE_COM]
        assert reach(below, http=http(name))["http"].server == addresses.EXAMPLE_COM

        def turned() -> bool:
            return addresses.EXAMPLE_COM not in reach(below, dns=dns(name))["dns"].json["answers"]

        wait_until("the name's second answer", turned)
        again = reach(below, dns=dns(name), inside=http(name, address=addresses.PRIVATE[0]), tls=https(name))
    assert addresses.PRIVATE[0] not in again["dns"].json["answers"]
    assert {again["inside"].server, again["tls"].server} <= {None, addresses.EXAMPLE_COM}


def test_case_16_unless_the_operator_and_the_policy_both_name_that_network(inside):
    with nothing_leaves_for(addresses.METADATA, addresses.PRIVATE[0]):
        found = reach(
            inside,
            name=dns("opened.example.com"),
            by_name=http("opened.example.com"),
            by_address=http("anything", address=addresses.OPENED_BY_OPERATOR),
            other=http("private.example.com", address=addresses.PRIVATE[0]),
        )
    assert found["name"].json["answers"] == [addresses.OPENED_BY_OPERATOR]
    assert found["by_name"].server == found["by_address"].server == addresses.OPENED_BY_OPERATOR
    assert not found["other"].reached


# Sends its questions without waiting for answers. Prints nothing.
FLOOD = """
import socket, struct, sys
sys.path.insert(0, '/tmp')
import reach
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.connect((reach.own_name_server(), 53))
for number in range(1500):
    name = reach.encoded(f'{number}.tunnel.example.com')
    out.send(struct.pack('>6H', number, 256, 1, 0, 0, 0) + name + struct.pack('>HH', 16, 1))
"""


# The last one here, because it uses up what this sandbox may ask.
def test_case_11_under_an_allowed_wildcard_types_are_few_and_questions_are_rationed(below, server):
    began = time.monotonic()
    with what_is_asked_outside() as asked, denied_within(server, below, query_type=1):
        found = reach(below, null=dns("x.tunnel.example.com", "NULL"), txt=dns("x.tunnel.example.com", "TXT"))
        below.filesystem.write_file(path="/tmp/flood.py", content=FLOOD)
        sh(below, "python3 /tmp/flood.py", timeout=60)
    seconds = time.monotonic() - began
    assert found["txt"].json["answers"] and found["null"].json["code"] == REFUSED, found
    assert not [question for question in asked if question["type"] == "NULL"]
    # The same question may go to more than one of the upstreams.
    names = {question["name"] for question in asked}
    assert 10 < len(names) <= BURST + RATE * seconds, (len(names), seconds)

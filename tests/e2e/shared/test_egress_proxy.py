"""What the proxy makes of TCP under a custom policy: cases 14, 15, 20 and 29, and protocols that tell no name."""

import pytest

from e2e.shared.egress import (
    CURL,
    CUT,
    LAB_CA,
    connections,
    custom,
    denied_within,
    nothing_leaves_for,
    sandbox_under,
    what_is_requested_outside,
)
from e2e.shared.hellos import client_hello, in_records
from lab import addresses, wait_until
from lab.footprint import open_descriptors
from lab.reach import get, http, https, reach, tcp, tls
from lab.sandboxes import GUEST_DIR, sh

SERVER_HELLO = "\x16\x03"
BANNER = addresses.BANNER.decode()
# What is neither TLS nor HTTP, so that nothing is waited for.
NO_NAME = "\0\0binary"


@pytest.fixture(scope="module")
def named(server):
    with sandbox_under(custom("example.com", "*.example.com")) as made:
        yield made


def test_case_14_a_forged_name_towards_another_address_leads_to_the_names_own_server(named):
    with nothing_leaves_for(addresses.EVIL):
        found = reach(
            named,
            sni=https("example.com", address=addresses.EVIL),
            host=http("example.com", address=addresses.EVIL),
            other_host_in_tls=tls("example.com", get("evil.example.org"), addresses.EVIL),
            not_allowed=https("evil.example.org", address=addresses.EXAMPLE_COM),
            not_allowed_host=http("evil.example.org", address=addresses.EXAMPLE_COM),
        )
    assert found["sni"].server == found["host"].server == addresses.EXAMPLE_COM
    assert found["other_host_in_tls"].server == addresses.EXAMPLE_COM, "what is inside TLS is that server's business"
    assert not found["not_allowed"].reached
    assert not found["not_allowed_host"].reached


def test_case_15_a_lie_in_etc_hosts_changes_nothing(named):
    sh(named, f"echo '{addresses.EVIL} example.com www.example.com' | sudo tee -a /etc/hosts >/dev/null")
    try:
        with nothing_leaves_for(addresses.EVIL):
            told = sh(named, f"{CURL} http://example.com/; {CURL} --cacert {LAB_CA} https://www.example.com/")
    finally:
        sh(named, "grep -v example.com /etc/hosts >/tmp/hosts; sudo cp /tmp/hosts /etc/hosts")
    assert told.count(f'"server": "{addresses.EXAMPLE_COM}"') == 2, told


def test_case_20_what_names_no_server_is_closed_and_split_hellos_are_read(named, server):
    hello = client_hello("example.com")
    place = (addresses.EXAMPLE_COM, 443)
    before = connections(server, named).get("tls", 0)
    with denied_within(server, named, no_name=3, encrypted_hello=1, name=1):
        found = reach(
            named,
            whole=tcp(*place, hello, until=SERVER_HELLO),
            by_bytes=tcp(*place, *hello, until=SERVER_HELLO, pause=0.005),
            by_records=tcp(*place, in_records(hello, 7), until=SERVER_HELLO),
            in_five_pieces=https("example.com", pieces=5),
            no_name=tls(None, get("example.com")),
            no_name_by_hand=tcp(*place, client_hello(None), until=SERVER_HELLO),
            encrypted=tcp(*place, client_hello("example.com", encrypted=True), until=SERVER_HELLO),
            address_as_name=tcp(*place, client_hello(addresses.EXAMPLE_COM), until=SERVER_HELLO),
            other_kind_of_name=tcp(*place, client_hello("example.com", name_kind=1), until=SERVER_HELLO),
            empty_name=tcp(*place, client_hello(""), until=SERVER_HELLO),
            not_tls=tcp(*place, "hello, is anybody there?\r\n\r\n"),
            other=https("evil.example.org", address=addresses.EXAMPLE_COM),
            seconds=8,
        )
    understood = {"whole", "by_bytes", "by_records", "in_five_pieces"}
    assert {what for what, answer in found.items() if answer.reached} == understood, found
    assert found["in_five_pieces"].server == addresses.EXAMPLE_COM
    assert connections(server, named)["tls"] - before == len(understood), "nothing of the others was passed on"


def test_a_server_that_speaks_first_is_reached_once_its_allowed_name_was_asked_for(named):
    with nothing_leaves_for(addresses.EVIL), what_is_requested_outside() as requested:
        unasked = reach(
            named,
            ssh=tcp(addresses.SSH, 22, NO_NAME, until=BANNER),
            evil=tcp(addresses.EVIL, 22, NO_NAME, until=BANNER),
        )
        assert sh(named, "getent ahostsv4 ssh.example.com").split()[0] == addresses.SSH
        asked = reach(
            named,
            ssh=tcp(addresses.SSH, 22, "SSH-2.0-guest\n", until="guest"),
            patient=tcp(addresses.SSH, 22, until=BANNER),
            evil=tcp(addresses.EVIL, 22, NO_NAME, until=BANNER),
            # The echo server never speaks first: what the guest says is held for good.
            silent=tcp(addresses.SSH, addresses.ECHO_PORT, "PING\r\n", until="PING"),
            dressed_up=tcp(addresses.SSH, addresses.ECHO_PORT, get("evil.example.org"), until="GET"),
            seconds=8,
        )
    for refused in (unasked["ssh"], unasked["evil"], asked["evil"]):
        assert refused.how in CUT, "at once, and not by the end of anybody's patience"
    assert BANNER in asked["patient"].data and "heard SSH-2.0-guest" in asked["ssh"].data, asked
    assert (asked["silent"].status, asked["dressed_up"].status) == (502, 403), asked
    assert "SSH-2.0-guest\n" in {seen.get("raw") for seen in requested}


# What a sandbox may hold in the proxy (crates/egress/src/limits.rs), and of it without having said where it leads; and
# what it tries to hold of each.
ALL_MAX, SILENT_MAX = 1024, 256
ALL_TRIED, SILENT_TRIED = 1100, 300
QUESTION = r"'GET / HTTP/1.1\r\nHost: example.com\r\n\r\n'"


def start_flood(sandbox, log: str, count: int, say: str = "") -> None:
    """Begins to open so many connections, and to open new ones for those that are closed."""
    arguments = f"{addresses.EXAMPLE_COM} 80 {count} {say}"
    sh(sandbox, f"sudo setsid python3 /tmp/flood.py {arguments} >/tmp/{log} 2>&1 </dev/null &")


def held(sandbox, log: str) -> int:
    """How many connections a flood had, a second after it last opened some."""
    return int(sh(sandbox, f"cat /tmp/{log}").split()[-1])


def end_floods(sandbox) -> None:
    sh(sandbox, "sudo pkill -f '[f]lood.py'; true")


def test_case_29_a_flood_of_connections_is_capped_and_neighbours_do_not_notice(named, server):
    def neighbour_is_served() -> bool:
        return '"server"' in sh(named, f"{CURL} --cacert {LAB_CA} https://www.example.com/")

    before = open_descriptors(server.process.pid)
    with sandbox_under(custom("example.com")) as flooder:
        flooder.filesystem.write_file(path="/tmp/flood.py", content=(GUEST_DIR / "flood.py").read_text())
        # The silent ones alone, and first: among as many as may be of the others there would be no room for them. Each
        # is closed after the ten seconds in which it could have said something, and there is a new one in its place.
        with denied_within(server, flooder, too_many=1):
            start_flood(flooder, "silent", SILENT_TRIED)
            wait_until("as many silent ones as may be", lambda: held(flooder, "silent") == SILENT_MAX, timeout=60)
            assert neighbour_is_served()
        end_floods(flooder)
        with denied_within(server, flooder, too_many=1):
            start_flood(flooder, "asking", ALL_TRIED, QUESTION)
            wait_until("as many as may be", lambda: held(flooder, "asking") == ALL_MAX, timeout=60)
        for _ in range(3):
            assert neighbour_is_served()
        # Two sockets for each of them, and something for its other descriptors.
        assert ALL_MAX < open_descriptors(server.process.pid) - before < 2 * ALL_MAX + 200

        def no_room_for_silence() -> bool:
            return (held(flooder, "no_room"), held(flooder, "asking")) == (0, ALL_MAX)

        start_flood(flooder, "no_room", SILENT_TRIED)
        wait_until("both kinds together are no more", no_room_for_silence)
        end_floods(flooder)

        def works_again() -> bool:
            return '"server"' in sh(flooder, f"{CURL} --cacert {LAB_CA} https://example.com/")

        wait_until("the flooder itself is served again", works_again)
    wait_until("its connections are gone", lambda: open_descriptors(server.process.pid) < before + 100)

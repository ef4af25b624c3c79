"""Requests that get a credential on their way: cases 19, 22 and 23, with the programs that agents use."""

import subprocess

import pytest

from e2e.shared import brokered
from e2e.shared.brokered import BASIC, BEARER, STRIPPED, values
from e2e.shared.egress import nothing_leaves_for, sandbox_under, what_is_requested_outside
from lab import addresses, current
from lab.reach import get, https, reach, tls
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


@pytest.mark.production_driver
def test_case_23_the_guests_own_credential_is_replaced_in_http2_and_http1(sandbox):
    with what_is_requested_outside() as requested:
        for arguments in (
            "https://api.example.com/two",
            "https://h1.example.com/one",
            "--http1.1 https://api.example.com/1",
        ):
            told = sh(sandbox, f"curl -sS -m 20 {OWN} -w ' %{{http_version}}' {arguments}")
            assert '"server"' in told and BEARER not in told, told
    assert [seen["version"] for seen in requested] == ["2", "1.1", "1.1"], requested
    for seen in requested:
        assert_brokered(seen)


def test_case_23_python_reaches_it_with_the_trust_it_finds(sandbox):
    code = (
        "import urllib.request\n"
        "request = urllib.request.Request('https://api.example.com/urllib', headers={'Authorization': 'mine'})\n"
        "print(urllib.request.urlopen(request, timeout=20).status)\n"
    )
    sandbox.filesystem.write_file(path="/tmp/fetch.py", content=code)
    with what_is_requested_outside() as requested:
        # As the template's user, as root, and as root without the user's environment.
        for how in ("python3", "sudo python3", "sudo env -i /usr/bin/python3"):
            assert sh(sandbox, f"{how} /tmp/fetch.py", timeout=60).strip() == "200", how
    assert len(requested) == 3
    for seen in requested:
        assert_brokered(seen, kept=None)


@pytest.mark.production_driver
@pytest.mark.thorough
def test_case_19_every_requests_authority_is_its_connections_name(sandbox):
    first = "GET /19-first HTTP/1.1\r\nHost: api.example.com\r\n\r\n"
    good = "https://api.example.com/19-first"
    with what_is_requested_outside() as requested:
        found = reach(
            sandbox,
            other=tls("api.example.com", get("example.com", "/19-bad")),
            other_brokered=tls("api.example.com", get("h1.example.com", "/19-bad")),
            later=tls("api.example.com", first + get("evil.example.org", "/19-bad"), until="421"),
            same=tls("api.example.com", first + get("API.example.com:443", "/19-first"), until='"/19-first"} HTTP'),
            absolute=tls("api.example.com", get("api.example.com", "https://evil.example.org/19-bad")),
            two_hosts=tls("api.example.com", get("api.example.com", "/19-bad", "Host: evil.example.org")),
            folded=tls("api.example.com", get("api.example.com", "/19-bad", "X: y", " Host: evil.example.org")),
            seconds=8,
        )
        # One connection for all three: the second asks for another host on it.
        once = "-sS -m 20 -o /dev/null -w '%{http_code} ' --http2"
        host = "-H 'Host: evil.example.org' https://api.example.com/19-bad"
        over_two = sh(sandbox, f"curl {once} {good} --next {once} {host} --next {once} {good}")
    assert over_two.split() == ["200", "421", "200"]
    assert [found[what].status for what in ("other", "other_brokered")] == [421, 421], found
    assert found["later"].data.count(" 200 ") == 1 and " 421 " in found["later"].data, found["later"]
    assert found["same"].data.count(" 200 ") == 2, found["same"]
    for what in ("absolute", "two_hosts", "folded"):
        assert found[what].status in (400, 421, None), (what, found[what])
    assert {seen.get("path") for seen in requested} == {"/19-first"}, "nothing of the others was sent"


def test_case_22_a_request_with_a_length_and_chunks_is_written_anew_with_one_of_them(sandbox):
    with what_is_requested_outside() as requested:
        # Who took the length for the body's would find the start of a request of its own in the rest.
        head = "POST /22 HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        hidden = get("evil.example.org", "/22-hidden")
        reach(sandbox, two=tls("api.example.com", f"{head}0\r\n\r\n{hidden}", until=" 421 "))
    assert {seen.get("path") for seen in requested} <= {"/22"}, requested
    for seen in requested:
        assert not (values(seen, "content-length") and values(seen, "transfer-encoding")), seen


def test_case_19_a_forged_address_changes_nothing_and_the_credential_goes_to_the_names_own_server(sandbox):
    with nothing_leaves_for(addresses.EVIL), what_is_requested_outside() as requested:
        found = reach(sandbox, forged=https("api.example.com", "/forged", addresses.EVIL))
    assert found["forged"].server == addresses.API
    assert [(seen["server"], values(seen, "authorization")) for seen in requested] == [(addresses.API, [BEARER])]


def test_a_plain_request_to_such_a_domain_carries_no_credential_at_all(sandbox):
    with what_is_requested_outside() as requested:
        assert '"server"' in sh(sandbox, f"curl -sS -m 20 {OWN} http://api.example.com/plain")
    (seen,) = requested
    assert values(seen, "authorization") == [] and values(seen, STRIPPED) == [], seen
    assert values(seen, "x-kept") == ["yes"]


@pytest.mark.parametrize("name", brokered.BAD_CERTIFICATES)
def test_case_24_an_upstream_that_cannot_be_verified_gets_nothing(sandbox, name):
    with what_is_requested_outside() as requested:
        told = sh(sandbox, f"curl -sS -m 20 -w ' %{{http_code}}' {OWN} https://{name}/24")
    assert told.endswith(" 502") and name in told, told
    assert requested == []


def test_case_16_a_brokered_name_that_leads_inside_gets_nothing(sandbox):
    with nothing_leaves_for(addresses.PRIVATE[0]), what_is_requested_outside() as requested:
        address = f"--resolve private.example.com:443:{addresses.PRIVATE[0]}"
        told = sh(
            sandbox,
            f"curl -sS -k -m 20 -o /dev/null -w '%{{http_code}}' {address} https://private.example.com/ || true",
        )
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


def test_bodies_of_any_size_come_through_whole(sandbox):
    sent = sh(sandbox, "head -c 3000000 /dev/urandom >/tmp/up; sha256sum </tmp/up | cut -d' ' -f1").strip()
    for host in ("api.example.com", "h1.example.com"):
        told = sh(sandbox, f"curl -sS -m 60 --data-binary @/tmp/up https://{host}/digest", timeout=90)
        assert told.strip() == sent
        assert sh(sandbox, f"curl -sS -m 60 https://{host}/bytes/5000000 | wc -c", timeout=90).strip() == "5000000"


def test_other_allowed_names_stay_opaque(sandbox):
    ca = "--cacert /tmp/lab-ca.pem -sS -m 20"
    with what_is_requested_outside() as requested:
        sh(sandbox, f"curl {ca} -H 'Authorization: Bearer guest' https://www.example.com/opaque")
    assert values(requested[0], "authorization") == ["Bearer guest"]
    issuer = "openssl s_client -connect www.example.com:443 -servername www.example.com </dev/null 2>/dev/null"
    assert "Lab CA" in sh(sandbox, f"{issuer} | openssl x509 -noout -issuer")

"""https://<id>-<port>.<domain>: names that are refused, the key that stays outside, clients that mean harm.

Cases 30, 32 and 33. Their deadlines are shown where they are short: crates/gateway/tests/gateway/limits.rs, and for the
control plane's own listener bin/leapbox/src/verbs/serve/http.rs.
"""

import base64
import json
import socket
import ssl

import httpx
import pytest

from lab import patience
from lab.clients import trust, web_client, websocket
from lab.sandboxes import probe, sh

# crates/guest-protocol/src/net.rs
AGENT_PORT = 52052
# crates/gateway/src/config.rs
HEADER_BYTES_MAX = 64 << 10


@pytest.fixture(scope="module")
def trusted(server) -> ssl.SSLContext:
    return trust(server)


def test_case_30_hostnames_that_are_no_sandbox_or_carry_a_bad_port_are_refused(
    app, shared_sandbox, server, key, trusted
):
    sandbox, right = shared_sandbox.id, httpx.URL(app).host
    bad_names = [
        *(f"{sandbox}{tail}" for tail in ("-0", "-65536", "-99999999999999999999", "-", "--80", "-+80", "-080")),
        *(f"{sandbox}{tail}" for tail in ("-8000-8000", "-80x", "a", ".evil", "-8000.x", "%2d8000", "_8000")),
        *(f"{head}{sandbox}-8000" for head in ("-", "x", "x.")),
        sandbox[:-1], "sbx-", "sbx", "snap-aaaaaaaaaaaaaaaaaaaa", "localhost", "api",
    ]  # fmt: skip
    other_domains = [f"{sandbox}-8000.{tail}" for tail in ("evil.example", "sandbox.localhost.evil.example")]
    hosts = [f"{name}.sandbox.localhost" for name in bad_names] + other_domains + ["", "127.0.0.1", "sandbox.localhost"]
    for host in (right, right.upper(), f"{right}."):
        head, body = raw_request(server, trusted, host, key)
        assert (status_of(head), body) == (200, "hello from the sandbox\n"), host
    for host in hosts:
        head, body = raw_request(server, trusted, host, key)
        assert status_of(head) in (400, 404), f"{host!r}: {head} {body}"


def test_case_30_the_agents_own_port_is_reachable_neither_through_the_gateway_nor_from_inside(
    app, shared_sandbox, server, key, trusted
):
    head, body = raw_request(server, trusted, f"{shared_sandbox.id}-{AGENT_PORT}.sandbox.localhost", key)
    assert status_of(head) == 400 and "x-leapbox-error: gateway" in head.lower(), f"{head} {body}"
    own = sh(shared_sandbox, "ip -4 -o addr show scope global | awk '{print $4}' | cut -d/ -f1").split()
    targets = [f"{address}:{AGENT_PORT}" for address in ("127.0.0.1", "[::1]", *own)]
    # The application's port as well: the probe itself works.
    reached = probe(shared_sandbox, "127.0.0.1:8000", *targets)
    assert [target for target, how in reached.items() if how == "open"] == ["127.0.0.1:8000"], reached


def test_case_32_the_platforms_key_never_reaches_the_guest_and_is_nowhere_inside_it(app, shared_sandbox, server, key):
    for http2 in (False, True):
        for headers in ({"authorization": f"Bearer {key}"}, {"leap0-authorization": key, "authorization": "Basic own"}):
            with web_client(server, headers=headers, http2=http2) as client:
                answer = client.get(f"{app}/headers")
            assert answer.status_code == 200
            assert_the_guest_saw(answer.json(), key, [] if len(headers) == 1 else ["Basic own"])
    url, headers = app.replace("https://", "wss://") + "/ws", {"authorization": f"Bearer {key}"}
    with websocket(url, additional_headers=headers, open_timeout=patience(20)) as socket_:
        assert_the_guest_saw(json.loads(base64.b64decode(socket_.response.headers["x-guest-saw"])), key, [])

    # The needle is put together in the guest, so that the search does not find itself.
    places = "/proc/[0-9]*/environ /home /tmp /root /etc /run /dev/shm /.leapbox"
    sh(shared_sandbox, f"printf '%s%s' {key[:-6]} {key[-6:]} > /tmp/needle")
    command = f"sudo sh -c 'grep -rslF -D skip -f /tmp/needle {places}'; true"
    assert sh(shared_sandbox, command, timeout=int(patience(120))).split() == ["/tmp/needle"]


def assert_the_guest_saw(headers: list[list[str]], key: str, authorization: list[str]) -> None:
    """That its application's own credentials are all that came of any."""
    assert not any(key in value for _, value in headers), headers
    names = [name.lower() for name, _ in headers]
    assert "host" in names and "leap0-authorization" not in names, headers
    assert [value for name, value in headers if name.lower() == "authorization"] == authorization


def test_case_33_headers_without_end_are_refused_as_soon_as_they_are_too_large(server, trusted):
    with open_tls(server, trusted, "x.sandbox.localhost") as connection:
        begin = b"GET / HTTP/1.1\r\nhost: x\r\nx-filler: "
        connection.sendall(begin + b"y" * (HEADER_BYTES_MAX - 1 - len(begin)))
        connection.settimeout(patience(1))
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(patience(20))
        connection.sendall(b"y")
        assert connection.recv(100).startswith(b"HTTP/1.1 431 ")


def open_tls(server, trusted: ssl.SSLContext, name: str) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", server.gateway_port), timeout=patience(20))
    return trusted.wrap_socket(plain, server_hostname=name)


def raw_request(server, trusted: ssl.SSLContext, host: str, key: str) -> tuple[str, str]:
    """One HTTP/1.1 request with exactly this Host header; returns the answer's head and body."""
    request = f"GET / HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
    with open_tls(server, trusted, "any.sandbox.localhost") as connection:
        connection.sendall(request.encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    head, _, body = answer.decode(errors="replace").partition("\r\n\r\n")
    return head, body


def status_of(head: str) -> int:
    return int(head.split()[1])

"""https://<id>-<port>.<domain>: names that are refused, the key that stays outside, clients that mean harm.

Cases 30, 32 and 33.
"""

import base64
import json
import re
import socket
import ssl

import httpx
import pytest
from websockets.sync.client import connect

from lab import wait_until
from lab.clients import trust, web_client
from lab.sandboxes import probe, sh
from lab.server import ROOT


def test_case_30_hostnames_that_are_no_sandbox_or_carry_a_bad_port_are_refused(app, shared_sandbox, server, key):
    sandbox = shared_sandbox.id
    bad_names = [
        *(f"{sandbox}{tail}" for tail in ("-0", "-65536", "-99999999999999999999", "-", "--80", "-+80", "-080")),
        *(f"{sandbox}{tail}" for tail in ("-8000-8000", "-80x", "a", ".evil", "-8000.x", "%2d8000", "_8000")),
        *(f"{head}{sandbox}-8000" for head in ("-", "x", "x.")),
        sandbox[:-1], "sbx-", "sbx", "snap-aaaaaaaaaaaaaaaaaaaa", "localhost", "api",
    ]  # fmt: skip
    other_domains = [f"{sandbox}-8000.{tail}" for tail in ("evil.example", "sandbox.localhost.evil.example")]
    hosts = [f"{name}.sandbox.localhost" for name in bad_names] + other_domains + ["", "127.0.0.1", "sandbox.localhost"]
    assert raw_request(server, httpx.URL(app).host, key)[0] == 200, "the right name passes"
    for host in hosts:
        status, text = raw_request(server, host, key)
        assert status in (400, 404, 421), f"{host!r}: {status} {text}"
        assert "hello from the sandbox" not in text, host


def test_case_30_upper_case_and_a_trailing_dot_name_the_same_host(app, server, key):
    for host in (httpx.URL(app).host.upper(), f"{httpx.URL(app).host}."):
        assert raw_request(server, host, key) == (200, "hello from the sandbox\n"), host


def test_case_30_the_agents_own_port_is_not_reachable_through_the_gateway(shared_sandbox, server, key):
    wire = (ROOT / "crates" / "guest-protocol" / "src" / "net.rs").read_text()
    port = int(re.search(r"AGENT_PORT: u16 = ([\d_]+);", wire)[1].replace("_", ""))
    status, text = raw_request(server, f"{shared_sandbox.id}-{port}.sandbox.localhost", key)
    assert status in (400, 403, 404, 502), f"{status} {text}"
    own = sh(shared_sandbox, "ip -4 -o addr show scope global | awk '{print $4}' | cut -d/ -f1").split()
    reached = probe(shared_sandbox, *(f"{address}:{port}" for address in ("127.0.0.1", "[::1]", *own)))
    assert "open" not in reached.values(), "the workload can reach the agent"


def test_case_32_the_platforms_key_never_reaches_the_guest(app, server, key):
    def seen_with(headers: list[tuple[str, str]], http2: bool) -> str:
        with web_client(server, headers=headers, http2=http2) as client:
            answer = client.get(f"{app}/headers")
            assert answer.status_code == 200
            return answer.text

    for http2 in (False, True):
        for form in (key, f"Bearer {key}"):
            for name in ("authorization", "leap0-authorization", "Leap0-Authorization"):
                shown = seen_with([(name, form)], http2)
                assert key not in shown and "authorization" not in shown.lower()
        both = seen_with([("leap0-authorization", key), ("authorization", "Bearer the-apps-own")], http2)
        assert key not in both and "leap0-authorization" not in both.lower()
        assert "Bearer the-apps-own" in [value for name, value in json.loads(both) if name.lower() == "authorization"]
        # The same key in both: the app's own header is passed on as it is only when it is not the platform's key.
        assert key not in seen_with([("leap0-authorization", key), ("authorization", f"Bearer {key}")], http2)


def test_case_32_the_key_does_not_reach_the_guest_in_a_websocket_handshake(app, key):
    url = app.replace("https://", "wss://") + "/ws"
    with connect(url, additional_headers={"authorization": f"Bearer {key}"}) as socket_:
        shown = base64.b64decode(socket_.response.headers["x-guest-saw"]).decode()
    assert key not in shown and "authorization" not in shown.lower()


def test_case_32_the_key_is_nowhere_inside_the_guest(shared_sandbox, key):
    # The needle is put together in the guest, so that the search does not find itself.
    places = "/proc/[0-9]*/environ /home /tmp /root /etc /run /dev/shm /.leapbox"
    sh(shared_sandbox, f"printf '%s%s' {key[:-6]} {key[-6:]} > /tmp/needle")
    command = f"sudo sh -c 'grep -rslF -D skip -f /tmp/needle {places}'; true"
    assert sh(shared_sandbox, command, timeout=120).split() == ["/tmp/needle"]


@pytest.mark.parametrize("port", ["api", "gateway"])
def test_case_33_a_slow_loris_is_hung_up_on(server, port):
    connection = open_tls(server, "x.sandbox.localhost") if port == "gateway" else open_plain(server)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x")
    connection.settimeout(2)

    def is_hung_up() -> bool:
        try:
            connection.sendall(b"x")
            answer = connection.recv(1000)
            return answer == b"" or b" 408 " in answer
        except TimeoutError:
            return False
        except (ConnectionError, ssl.SSLError):
            return True

    with connection:
        wait_until("the server hangs up on a header that never ends", is_hung_up, timeout=90)


def test_case_33_a_tls_handshake_that_never_comes_is_hung_up_on(server):
    with socket.create_connection(("127.0.0.1", server.gateway_port)) as connection:
        connection.settimeout(90)
        assert connection.recv(100) == b""


def test_case_33_headers_without_end_are_refused(server):
    most = 64 << 20
    with open_tls(server, "x.sandbox.localhost") as connection:
        sent = connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
        try:
            while sent < most:
                sent += connection.send(b"x-filler: " + b"y" * 8000 + b"\r\n")
        except (ConnectionError, ssl.SSLError):
            pass  # hung up on, as it should be
    assert sent < most


def open_plain(server) -> socket.socket:
    host, port = server.api_address.split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def open_tls(server, name: str) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", server.gateway_port), timeout=10)
    return trust(server).wrap_socket(plain, server_hostname=name)


def raw_request(server, host: str, key: str) -> tuple[int, str]:
    """One HTTP/1.1 request with exactly this Host header; returns status and the rest of the answer.

    A refused TLS handshake counts as 421 (misdirected): the name was turned away earlier still.
    """
    name = "any.sandbox.localhost"
    request = f"GET / HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
    try:
        with open_tls(server, name) as connection:
            connection.sendall(request.encode())
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
    except ssl.SSLError as error:
        return 421, str(error)
    head, _, body = answer.decode(errors="replace").partition("\r\n\r\n")
    return int(head.split()[1]), body

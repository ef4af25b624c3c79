"""https://<id>-<port>.<domain>: what passes, and how it passes."""

import asyncio
import threading

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from lab import wait_until
from lab.clients import trust, web_client
from lab.sandboxes import sh, start_app

UNKNOWN = "sbx-aaaaaaaaaaaaaaaaaaaa"


def test_http_1_1_and_http_2_reach_an_app_that_listens_on_loopback(app, server):
    for http2, version in ((False, "HTTP/1.1"), (True, "HTTP/2")):
        with web_client(server, http2=http2) as client:
            answer = client.get(app)
            assert (answer.status_code, answer.http_version) == (200, version)
            assert answer.text == "hello from the sandbox\n"


def test_an_app_that_listens_on_every_address_is_reached_too(shared_sandbox, web):
    url = start_app(shared_sandbox, web, port=8001, address="0.0.0.0")
    assert web.get(url).status_code == 200


def test_an_app_that_listens_on_ipv6_loopback_only_is_answered_or_named_in_a_502(shared_sandbox, web):
    command = "setsid python3 -m http.server --bind ::1 8006 >/dev/null 2>&1 </dev/null &"
    sh(shared_sandbox, command)
    answer = web.get(shared_sandbox.invoke_url("/", port=8006))
    assert answer.status_code == 200 or (answer.status_code == 502 and "8006" in answer.text)


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
def test_large_bodies_pass_both_ways_unchanged(app, server, http2):
    body = bytes(range(256)) * 8192
    with web_client(server, http2=http2) as client:
        assert client.post(f"{app}/echo", content=body).content == body
        assert client.post(f"{app}/echo", content=iter([body[:1000], body[1000:]])).content == body


def test_many_requests_at_once_on_one_connection_are_all_answered(app, server):
    async def ask() -> list[int]:
        # Not from threads: httpcore gives stream ids away and sends them unordered then, which HTTP/2 forbids.
        with web_client(server) as plain:
            options = {"headers": plain.headers, "verify": trust(server), "timeout": plain.timeout}
        async with httpx.AsyncClient(http2=True, **options) as client:
            answers = await asyncio.gather(*(client.get(f"{app}/bytes/{size}") for size in range(1000, 1030)))
        return [len(answer.content) for answer in answers]

    assert asyncio.run(ask()) == list(range(1000, 1030))


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
def test_server_sent_events_arrive_as_they_are_sent(app, server, http2):
    with web_client(server, http2=http2) as client, client.stream("GET", f"{app}/events") as events:
        lines = events.iter_lines()
        assert next(lines) == "data: first"
        # "second" exists only after this request: were anything buffered, "first" would not be here yet.
        assert client.post(f"{app}/go").status_code == 200
        assert "data: second" in list(lines)


def test_an_upload_is_passed_on_while_it_is_still_being_sent(app, server):
    first_part_arrived = threading.Event()

    def body():
        yield b"x" * 100_000
        assert first_part_arrived.wait(30), "the guest never saw the first part"
        yield b"x" * 100_000

    def watch():
        with web_client(server) as watcher:
            wait_until("the guest has the first part", lambda: int(watcher.get(f"{app}/uploaded").text) >= 100_000)
        first_part_arrived.set()

    watching = threading.Thread(target=watch)
    watching.start()
    with web_client(server) as client:
        assert client.post(f"{app}/upload", content=body()).text == "200000"
    watching.join()


def test_websocket_messages_are_echoed_text_and_binary_small_and_large(app, key):
    url = app.replace("https://", "wss://") + "/ws"
    with connect(url, additional_headers={"authorization": f"Bearer {key}"}, max_size=None) as socket_:
        for message in ("hello", "ünï©ødé", b"\x00\xff", b"x" * 70_000, "y" * 1_000_000):
            socket_.send(message)
            assert socket_.recv(timeout=30) == message
        assert socket_.ping().wait(10)


def test_a_websocket_closes_cleanly_from_either_side(app, key):
    url = app.replace("https://", "wss://") + "/ws"
    with connect(url, additional_headers={"authorization": key}) as socket_:
        socket_.close(4001, "enough")
        with pytest.raises(ConnectionClosed):
            socket_.recv()
        assert socket_.close_code == 4001


@pytest.mark.parametrize("secure_path", ["/ws", "/"])
def test_a_websocket_without_a_key_is_refused(app, secure_path):
    with pytest.raises(InvalidStatus) as refusal:
        connect(app.replace("https://", "wss://") + secure_path)
    assert refusal.value.response.status_code == 401


def test_without_a_key_a_hostname_is_unauthorized(app, server):
    with web_client(server, headers={}) as nobody:
        assert nobody.get(app).status_code == 401


def test_an_unknown_sandbox_is_not_found(app, web, shared_sandbox):
    answer = web.get(app.replace(shared_sandbox.id, UNKNOWN))
    assert answer.status_code == 404
    assert answer.json()["message"]


def test_a_port_nobody_listens_on_is_a_502_that_names_it(shared_sandbox, web):
    answer = web.get(shared_sandbox.invoke_url("/", port=5999))
    assert answer.status_code == 502
    assert "5999" in answer.json()["message"]


def test_what_the_guest_gets_is_right_about_host_client_and_hops(app, server, key):
    headers = [
        ("authorization", f"Bearer {key}"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "gopher"),
        ("connection", "x-hop"),
        ("x-hop", "must not pass"),
        ("proxy-authorization", "Basic eDp5"),
        ("te", "trailers"),
        ("x-mine", "must pass"),
    ]
    with web_client(server, headers=headers) as client:
        seen = {name.lower(): value for name, value in client.get(f"{app}/headers").json()}
    assert seen["host"].split(":")[0] == httpx.URL(app).host
    assert seen["x-forwarded-proto"] == "https"
    assert seen["x-forwarded-host"].split(":")[0] == httpx.URL(app).host
    assert seen["x-forwarded-for"].split(",")[-1].strip() in ("127.0.0.1", "::1")
    assert seen["x-mine"] == "must pass"
    for hop in ("x-hop", "proxy-authorization", "keep-alive"):
        assert hop not in seen

"""https://<id>-<port>.<domain>: what passes, and how it passes, all the way into a guest."""

import asyncio
import threading

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from lab import patience, wait_until
from lab.clients import trust, web_client, websocket
from lab.sandboxes import sh, start_app

UNKNOWN = "sbx-aaaaaaaaaaaaaaaaaaaa"


def test_http_1_1_and_http_2_reach_an_app_that_listens_on_loopback(app, server):
    for http2, version in ((False, "HTTP/1.1"), (True, "HTTP/2")):
        with web_client(server, http2=http2) as client:
            answer = client.get(app)
            assert (answer.status_code, answer.http_version) == (200, version)
            assert answer.text == "hello from the sandbox\n"


def test_an_app_that_listens_on_the_guests_network_address_alone_is_reached(shared_sandbox, web):
    address = sh(shared_sandbox, "ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1").strip()
    url = start_app(shared_sandbox, web, port=8001, address=address)
    assert web.get(url).status_code == 200


def test_an_app_that_listens_on_ipv6_loopback_alone_is_reached(shared_sandbox, web):
    sh(shared_sandbox, "setsid python3 -m http.server --bind ::1 8006 >/dev/null 2>&1 </dev/null &")
    url = shared_sandbox.invoke_url("/", port=8006)
    wait_until("it answers", lambda: web.get(url).status_code == 200)


def test_large_bodies_pass_both_ways_unchanged(app, server):
    body = bytes(range(256)) * 8192
    with web_client(server, http2=False) as one, web_client(server, http2=True) as two:
        assert one.post(f"{app}/echo", content=iter([body[:1000], body[1000:]])).content == body
        assert two.post(f"{app}/echo", content=body).content == body


def test_many_requests_at_once_on_one_connection_are_all_answered(app, server):
    async def ask() -> list[int]:
        # Not from threads: httpcore gives stream ids away and sends them unordered then, which HTTP/2 forbids.
        with web_client(server) as plain:
            options = {"headers": plain.headers, "verify": trust(server), "timeout": plain.timeout}
        async with httpx.AsyncClient(http2=True, **options) as client:
            answers = await asyncio.gather(*(client.get(f"{app}/bytes/{size}") for size in range(1000, 1030)))
        return [len(answer.content) for answer in answers]

    assert asyncio.run(ask()) == list(range(1000, 1030))


def test_server_sent_events_arrive_as_they_are_sent(app, server):
    with web_client(server, http2=True) as client, client.stream("GET", f"{app}/events") as events:
        lines = events.iter_lines()
        assert next(lines) == "data: first"
        # "second" exists only after this request: were anything buffered, "first" would not be here yet.
        assert client.post(f"{app}/go").status_code == 200
        assert "data: second" in list(lines)


def test_an_upload_is_passed_on_while_it_is_still_being_sent(app, server):
    first_part_arrived = threading.Event()

    def body():
        yield b"x" * 123_456
        assert first_part_arrived.wait(patience(30)), "the guest never saw the first part"
        yield b"x" * 100_000

    def watch():
        with web_client(server) as watcher:
            # Just that many: what an earlier upload has left there is another number.
            wait_until("the guest has the first part", lambda: watcher.get(f"{app}/uploaded").text == "123456")
        first_part_arrived.set()

    watching = threading.Thread(target=watch)
    watching.start()
    with web_client(server) as client:
        assert client.post(f"{app}/upload", content=body()).text == "223456"
    watching.join()


def test_websocket_messages_are_echoed_and_the_clients_close_arrives(app, key):
    url, headers = app.replace("https://", "wss://") + "/ws", {"authorization": f"Bearer {key}"}
    with websocket(url, additional_headers=headers, open_timeout=patience(20)) as socket_:
        for message in ("ünï©ødé", b"\x00\xff" * 35_000):
            socket_.send(message)
            assert socket_.recv(timeout=patience(30)) == message
        assert socket_.ping().wait(patience(10))
        socket_.close(4001, "enough")
        with pytest.raises(ConnectionClosed):
            socket_.recv()
        assert socket_.close_code == 4001, "the app has sent it back"


def test_the_gateways_own_answers_say_what_is_missing(app, server, web, shared_sandbox):
    with web_client(server, headers={}) as nobody:
        without_a_key = nobody.get(app)
    with pytest.raises(InvalidStatus) as refusal:
        websocket(app.replace("https://", "wss://") + "/ws", open_timeout=patience(20))
    unknown = web.get(app.replace(shared_sandbox.id, UNKNOWN))
    closed = web.get(shared_sandbox.invoke_url("/", port=5999))
    answers = [without_a_key, refusal.value.response, unknown, closed]
    assert [answer.status_code for answer in answers] == [401, 401, 404, 502]
    assert [answer.headers["x-leapbox-error"] for answer in answers] == ["gateway"] * 4


def test_what_the_guest_gets_is_right_about_host_client_and_hops(app, server, key):
    headers = [
        ("authorization", f"Bearer {key}"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-for", "7.7.7.7"),
        ("x-forwarded-proto", "gopher"),
        ("x-forwarded-host", "evil.example"),
        ("connection", "x-hop"),
        ("x-hop", "must not pass"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "Basic eDp5"),
        ("te", "trailers"),
        ("x-mine", "must pass"),
    ]
    with web_client(server, headers=headers) as client:
        sent = client.get(f"{app}/headers").json()

    def seen(name: str) -> list[str]:
        return [value for given, value in sent if given.lower() == name]

    name = httpx.URL(app).host
    assert [host.split(":")[0] for host in seen("host")] == [name]
    assert [host.split(":")[0] for host in seen("x-forwarded-host")] == [name]
    assert seen("x-forwarded-proto") == ["https"]
    # The client is this machine, which the name leads to by one of its two loopback addresses.
    assert seen("x-forwarded-for") in (["127.0.0.1"], ["::1"])
    assert seen("x-mine") == ["must pass"]
    assert seen("x-hop") == seen("proxy-authorization") == seen("keep-alive") == []

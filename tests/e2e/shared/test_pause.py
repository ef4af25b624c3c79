"""Pause, and the wake by whatever request comes next; auto_pause; the times that are shown."""

import asyncio
import collections
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import httpx
import pytest

from lab import patience, wait_until
from lab.clients import delete_if_there, web_client, websocket
from lab.footprint import vmm_pids
from lab.sandboxes import all_marks, leave_marks, marks, sh, start_app, state_of, vmm_pid
from lab.sdk import Leap0Client, Leap0ConflictError, Leap0NotFoundError


def listed(client, state: str) -> set[str]:
    return {item.id for item in client.sandboxes.list(state=state, page_size=100).items}


@pytest.fixture
def made(client):
    """Makes sandboxes for one test, and deletes them whatever becomes of it."""
    all_of_them = []

    def make(**options):
        all_of_them.append(client.sandboxes.create(**options))
        return all_of_them[-1]

    yield make
    for sandbox in all_of_them:
        delete_if_there(sandbox)


@pytest.mark.production_driver
def test_a_paused_sandbox_has_no_vm_is_shown_as_paused_and_lives_on_as_itself_at_the_next_request(client, made, server):
    sandbox = made(env_vars={"GREETING": "hello"})
    leave_marks(sandbox, "kept")
    look = 'echo "$GREETING"; cat /etc/machine-id /proc/sys/kernel/random/boot_id; hostname; pidof -s sleep'
    identity = sh(sandbox, look)
    assert identity.startswith("hello\n")
    pid = vmm_pid(server.data_dir, sandbox.id)
    assert sandbox.pause().state == "paused"
    assert pid not in vmm_pids()
    assert client.sandboxes.get(sandbox.id).state == "paused"
    assert sandbox.id in listed(client, "paused") and sandbox.id not in listed(client, "running")
    assert client.sandboxes.get(sandbox.id).state == "paused", "to look at it does not wake it"
    assert marks(sandbox) == all_marks("kept")
    assert client.sandboxes.get(sandbox.id).state == "running"
    assert sandbox.id in listed(client, "running") and sandbox.id not in listed(client, "paused")
    assert sh(sandbox, look) == identity


async def test_the_async_client_pauses_and_wakes_too(async_client):
    sandbox = await async_client.sandboxes.create()
    try:
        await sandbox.process.execute(command="echo kept >/dev/shm/word")
        assert (await sandbox.pause()).state == "paused"
        assert (await async_client.sandboxes.get(sandbox.id)).state == "paused"
        listed_as_paused = await async_client.sandboxes.list(state="paused", page_size=100)
        assert sandbox.id in {item.id for item in listed_as_paused.items}
        both = await asyncio.gather(*(sandbox.process.execute(command="cat /dev/shm/word") for _ in range(2)))
        assert [result.stdout for result in both] == ["kept\n", "kept\n"]
    finally:
        await sandbox.delete()


@pytest.fixture(scope="module")
def sleeper(server):
    """A sandbox with a web application in it, to be paused over and over."""
    with Leap0Client() as client, web_client(server) as web:
        made = client.sandboxes.create(timeout=3600)
        made.filesystem.write_file(path="/home/user/word", content="kept\n")
        start_app(made, web)
        yield made
        made.delete()


def put_to_sleep(client, sandbox) -> None:
    """Whatever the test before has left it in: an unfinished wake is waited for."""
    wait_until("it is paused", lambda: state_of(client, sandbox.id) == "paused" or sandbox.pause().state == "paused")


def wakes(server) -> float:
    """Wakes so far. One is counted a moment after the sandbox can be used."""
    return server.metric("wake_seconds_count")


def invoke(sandbox, server, http2: bool) -> int:
    with web_client(server, http2=http2) as web:
        return web.get(sandbox.invoke_url("/", port=8000)).status_code


def speak(sandbox, server) -> str:
    url, headers = sandbox.websocket_url("/ws", port=8000), {"authorization": server.env()["LEAP0_API_KEY"]}
    with websocket(url, additional_headers=headers, open_timeout=patience(30)) as socket_:
        socket_.send("still there?")
        return socket_.recv(timeout=patience(30))


REQUESTS = {
    "execute": (lambda box, _: sh(box, "cat ~/word"), "kept\n"),
    "read-file": (lambda box, _: box.filesystem.read_file(path="/home/user/word"), "kept\n"),
    "write-file": (lambda box, _: box.filesystem.write_file(path="/tmp/new", content="x"), None),
    "ls": (lambda box, _: "word" in {item.name for item in box.filesystem.ls(path="/home/user").items}, True),
    "stat": (lambda box, _: box.filesystem.stat(path="/home/user/word").size, 5),
    "exists": (lambda box, _: box.filesystem.exists(path="/home/user/word"), True),
    "user-home-dir": (lambda box, _: box.get_user_home_dir(), "/home/user"),
    "workdir": (lambda box, _: box.get_workdir(), "/home/user"),
    "HTTP/1.1": (lambda box, server: invoke(box, server, http2=False), 200),
    "HTTP/2": (lambda box, server: invoke(box, server, http2=True), 200),
    "WebSocket": (speak, "still there?"),
}


@pytest.mark.parametrize("request_of", [pytest.param(how, id=name) for name, how in REQUESTS.items()])
def test_any_request_wakes_a_paused_sandbox_and_is_answered(client, sleeper, server, request_of):
    ask, answer = request_of
    put_to_sleep(client, sleeper)
    woken = wakes(server)
    assert ask(sleeper, server) == answer
    assert client.sandboxes.get(sleeper.id).state == "running"
    wait_until("the wake is counted", lambda: wakes(server) == woken + 1)


def test_requests_that_come_in_the_very_moment_of_a_pause_are_served_or_told_to_come_back(sleeper, server):
    rounds, url = 10, sleeper.invoke_url("/", port=8000)
    over = threading.Event()
    answers: collections.Counter = collections.Counter()

    def ask() -> None:
        while not over.is_set():
            # A connection of its own each time: none is cut that had been there before the pause.
            try:
                with web_client(server) as web:
                    answer = web.get(url)
            except (httpx.RemoteProtocolError, httpx.ReadError):
                answers["cut off in the middle of its answer"] += 1
                continue
            told = answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
            served = answer.status_code == 200 and answer.text == "hello from the sandbox\n"
            answers["served" if served else "told" if told else f"{answer.status_code} {answer.text}"] += 1

    paused = server.metric("pause_seconds_count")
    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            for _ in range(rounds):
                before = answers["served"]
                wait_until("it serves", lambda: answers["served"] > before)
                # It may be waking up just now.
                wait_until("it is paused", lambda: sleeper.pause().state == "paused", interval=0.01)
        finally:
            over.set()
        for each in asking:
            each.result(patience(60))
    print(dict(answers))
    assert set(answers) <= {"served", "told", "cut off in the middle of its answer"}, answers
    assert server.metric("pause_seconds_count") >= paused + rounds


def test_a_request_that_is_refused_anyway_does_not_wake(client, sleeper, server, api):
    put_to_sleep(client, sleeper)
    url = sleeper.invoke_url("/", port=8000)
    with web_client(server, headers={}) as nobody:
        assert nobody.get(url).status_code == 401
    assert api.post(f"/v1/sandbox/{sleeper.id}/process/execute", json={"command": 7}).status_code == 400
    stranger = {"authorization": server.create_key("passer-by")}
    assert api.get(f"/v1/sandbox/{sleeper.id}/system/workdir", headers=stranger).status_code == 404
    assert client.sandboxes.get(sleeper.id).state == "paused"


def test_pausing_what_is_paused_is_a_conflict_and_neither_that_nor_a_delete_wakes_it(client, made, server):
    sandbox = made()
    sandbox.pause()
    woken = wakes(server)
    with pytest.raises(Leap0ConflictError):
        sandbox.pause()
    assert client.sandboxes.get(sandbox.id).state == "paused"
    sandbox.delete()
    assert state_of(client, sandbox.id) == "unknown"
    assert wakes(server) == woken
    for unknown in (sandbox.id, "sbx-aaaaaaaaaaaaaaaaaaaa"):
        with pytest.raises(Leap0NotFoundError):
            client.sandboxes.pause(unknown)


def times_of(api: httpx.Client, sandbox) -> dict:
    (item,) = [item for item in api.get("/v1/sandboxes?page-size=100").json()["items"] if item["id"] == sandbox.id]
    for name in ("created_at", "launch_time", "state_change_time"):
        item[name] = datetime.fromisoformat(item[name].replace("Z", "+00:00")).timestamp()
    return item


def test_the_times_that_are_shown_are_true_through_pause_and_wake(made, api):
    begun = time.time()
    sandbox = made(timeout=600)
    fresh = times_of(api, sandbox)
    # Whole seconds are shown.
    assert begun + 599 <= fresh["timeout_at"] <= time.time() + 600

    begun = time.time()
    sandbox.pause()
    asleep = times_of(api, sandbox)
    assert begun - 0.1 <= asleep["state_change_time"] <= time.time() + 0.1
    assert asleep.get("timeout_at") is None, "a paused sandbox does not time out"
    assert asleep["created_at"] == fresh["created_at"]

    # The difference between a timeout that began anew and one that went on must be more than a second.
    wait_until("it is older than that", lambda: time.time() > fresh["created_at"] + 2.5)
    begun = time.time()
    sh(sandbox, "true")
    awake = times_of(api, sandbox)
    assert begun - 0.1 <= awake["state_change_time"] <= time.time() + 0.1
    assert begun + 599 <= awake["timeout_at"] <= time.time() + 600, "a wake starts the timeout anew"
    assert awake["created_at"] == fresh["created_at"] <= awake["launch_time"] <= time.time()


def test_a_timeout_pauses_with_auto_pause_deletes_without_and_begins_anew_with_each_wake(client, made):
    """Two sandboxes side by side. Every clock of ours starts before the server's, so that no timeout may be shorter."""
    # Long enough for what is done with each before its time is up.
    short, longer = math.ceil(patience(3)), math.ceil(patience(4))
    lost = made(timeout=short)
    lost.pause()
    begun = time.monotonic()
    kept = made(timeout=longer, auto_pause=True)
    assert kept.auto_pause and client.sandboxes.get(kept.id).auto_pause
    leave_marks(kept, "kept")
    wait_until("the one's time is up", lambda: state_of(client, kept.id) == "paused")
    assert time.monotonic() - begun >= longer
    assert state_of(client, lost.id) == "paused", "asleep, it has no timeout"

    woken = {"lost": time.monotonic()}
    sh(lost, "true")
    woken["kept"] = time.monotonic()
    assert marks(kept) == all_marks("kept")
    # "deleted" would be one that has failed.
    wait_until("the other's time is up", lambda: state_of(client, lost.id) == "unknown")
    assert time.monotonic() - woken["lost"] >= short
    wait_until("the one's time is up again", lambda: state_of(client, kept.id) == "paused")
    assert time.monotonic() - woken["kept"] >= longer
    assert marks(kept) == all_marks("kept")
    assert client.sandboxes.get(kept.id).state == "running"

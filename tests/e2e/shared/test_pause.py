"""Pause, and the wake by whatever request comes next; auto_pause; the times that are shown."""

import asyncio
import collections
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import httpx
import pytest
from websockets.sync.client import connect

from lab import patience, wait_until
from lab.clients import web_client
from lab.footprint import vmm_pids
from lab.sandboxes import all_marks, leave_marks, marks, sh, start_app, state_of, vmm_pid
from lab.sdk import Leap0Client, Leap0ConflictError, Leap0NotFoundError


def listed(client, state: str) -> set[str]:
    return {item.id for item in client.sandboxes.list(state=state, page_size=100).items}


@pytest.mark.production_driver
def test_a_paused_sandbox_has_no_vm_is_shown_as_paused_and_lives_on_at_the_next_request(client, sandbox, server):
    leave_marks(sandbox, "kept")
    pid = vmm_pid(server.data_dir, sandbox.id)
    assert sandbox.pause().state == "paused"
    assert pid not in vmm_pids()
    assert client.sandboxes.get(sandbox.id).state == "paused"
    assert sandbox.id in listed(client, "paused") and sandbox.id not in listed(client, "running")
    assert client.sandboxes.get(sandbox.id).state == "paused", "to look at it does not wake it"
    assert marks(sandbox) == all_marks("kept")
    assert client.sandboxes.get(sandbox.id).state == "running"
    assert sandbox.id in listed(client, "running") and sandbox.id not in listed(client, "paused")


async def test_the_async_client_pauses_and_wakes_too(async_client):
    sandbox = await async_client.sandboxes.create()
    await sandbox.process.execute(command="echo kept >/dev/shm/word")
    assert (await sandbox.pause()).state == "paused"
    assert (await async_client.sandboxes.get(sandbox.id)).state == "paused"
    listed_as_paused = await async_client.sandboxes.list(state="paused", page_size=100)
    assert sandbox.id in {item.id for item in listed_as_paused.items}
    both = await asyncio.gather(*(sandbox.process.execute(command="cat /dev/shm/word") for _ in range(2)))
    assert [result.stdout for result in both] == ["kept\n", "kept\n"]
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


def invoke(sandbox, server, http2: bool) -> int:
    with web_client(server, http2=http2) as web:
        return web.get(sandbox.invoke_url("/", port=8000)).status_code


def speak(sandbox, server) -> str:
    key = server.env()["LEAP0_API_KEY"]
    with connect(sandbox.websocket_url("/ws", port=8000), additional_headers={"authorization": key}) as socket_:
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
    sleeper.pause()
    assert ask(sleeper, server) == answer
    assert client.sandboxes.get(sleeper.id).state == "running"


def test_requests_that_come_in_the_very_moment_of_a_pause_are_served_or_told_to_come_back(sleeper, server):
    url = sleeper.invoke_url("/", port=8000)
    over = threading.Event()
    answers: collections.Counter = collections.Counter()

    def ask() -> None:
        while not over.is_set():
            # A connection of its own each time: none is cut that had been there before the pause.
            try:
                with web_client(server) as web:
                    answer = web.get(url)
            except httpx.RemoteProtocolError:
                answers["cut off in the middle of its answer"] += 1
                continue
            known = answer.status_code == 200 or (answer.status_code == 503 and "retry-after" in answer.headers)
            answers["served or told" if known else f"{answer.status_code} {answer.text}"] += 1

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        for _ in range(10):
            before = answers.total()
            wait_until("one is answered", lambda: answers.total() > before)
            # It may be waking up just now.
            wait_until("it is paused", lambda: sleeper.pause().state == "paused", interval=0.01)
        over.set()
        for each in asking:
            each.result(patience(60))
    assert set(answers) <= {"served or told", "cut off in the middle of its answer"}, answers


def test_a_request_that_is_refused_anyway_does_not_wake(client, sleeper, server, api):
    sleeper.pause()
    url = sleeper.invoke_url("/", port=8000)
    with web_client(server, headers={}) as nobody:
        assert nobody.get(url).status_code == 401
    assert api.post(f"/v1/sandbox/{sleeper.id}/process/execute", json={"command": 7}).status_code == 400
    stranger = {"authorization": server.create_key("passer-by")}
    assert api.get(f"/v1/sandbox/{sleeper.id}/system/workdir", headers=stranger).status_code == 404
    assert client.sandboxes.get(sleeper.id).state == "paused"


def test_pausing_what_is_paused_is_a_conflict_and_what_is_unknown_is_not_found(client, sleeper):
    if client.sandboxes.get(sleeper.id).state != "paused":
        sleeper.pause()
    with pytest.raises(Leap0ConflictError, match="paused"):
        sleeper.pause()
    assert client.sandboxes.get(sleeper.id).state == "paused"
    with pytest.raises(Leap0NotFoundError):
        client.sandboxes.pause("sbx-aaaaaaaaaaaaaaaaaaaa")


def test_deleting_a_paused_sandbox_does_not_wake_it(client, server):
    sandbox = client.sandboxes.create()
    sandbox.pause()
    woken = server.metric("wake_seconds_count")
    sandbox.delete()
    assert state_of(client, sandbox.id) == "unknown"
    assert server.metric("wake_seconds_count") == woken


def times_of(api: httpx.Client, sandbox) -> dict:
    (item,) = [item for item in api.get("/v1/sandboxes?page-size=100").json()["items"] if item["id"] == sandbox.id]
    for name in ("created_at", "launch_time", "state_change_time"):
        item[name] = datetime.fromisoformat(item[name].replace("Z", "+00:00")).timestamp()
    return item


def test_the_times_that_are_shown_are_true_through_pause_and_wake(client, api):
    sandbox = client.sandboxes.create(timeout=600)
    fresh = times_of(api, sandbox)
    assert abs(fresh["timeout_at"] - (time.time() + 600)) < patience(5)

    begun = time.time()
    sandbox.pause()
    asleep = times_of(api, sandbox)
    assert begun - 0.1 <= asleep["state_change_time"] <= time.time() + 0.1
    assert asleep.get("timeout_at") is None, "a paused sandbox does not time out"
    assert asleep["created_at"] == fresh["created_at"]

    # Whole seconds are shown: a timeout that began anew must be told from one that went on.
    wait_until("a moment asleep", lambda: time.time() > begun + 3)
    begun = time.time()
    sh(sandbox, "true")
    awake = times_of(api, sandbox)
    assert begun - 0.1 <= awake["state_change_time"] <= time.time() + 0.1
    assert begun + 599 <= awake["timeout_at"] <= time.time() + 600, "a wake starts the timeout anew"
    assert awake["created_at"] == fresh["created_at"] <= awake["launch_time"] <= time.time()
    sandbox.delete()


def test_auto_pause_pauses_at_the_timeout_and_again_after_a_wake(client):
    sandbox = client.sandboxes.create(timeout=int(patience(4)), auto_pause=True)
    awake_since = time.monotonic()
    assert sandbox.auto_pause and client.sandboxes.get(sandbox.id).auto_pause
    leave_marks(sandbox, "kept")
    for _ in range(2):
        wait_until("its time is up", lambda: state_of(client, sandbox.id) == "paused", timeout=30)
        assert time.monotonic() - awake_since >= patience(4) - 0.6
        awake_since = time.monotonic()
        assert marks(sandbox) == all_marks("kept")
    assert client.sandboxes.get(sandbox.id).state == "running"
    sandbox.delete()


def test_without_auto_pause_a_woken_sandbox_is_deleted_at_its_new_timeout(client):
    sandbox = client.sandboxes.create(timeout=3)
    sandbox.pause()
    begun = time.monotonic()
    # Longer than its timeout: asleep, it has none.
    wait_until("four seconds asleep", lambda: time.monotonic() - begun > 4)
    assert state_of(client, sandbox.id) == "paused"
    sh(sandbox, "true")
    woken = time.monotonic()
    wait_until("it is deleted", lambda: state_of(client, sandbox.id) in ("deleted", "unknown"), timeout=15)
    assert time.monotonic() - woken > 2.4


def test_a_sandbox_wakes_with_its_environment_and_identity(client):
    sandbox = client.sandboxes.create(env_vars={"GREETING": "hello"})
    look = 'echo "$GREETING"; cat /etc/machine-id /proc/sys/kernel/random/boot_id; hostname; pidof -s sleep'
    sh(sandbox, "setsid sleep 86400 >/dev/null 2>&1 </dev/null &")
    before = sh(sandbox, look)
    assert before.startswith("hello\n")
    sandbox.pause()
    assert sh(sandbox, look) == before
    sandbox.delete()

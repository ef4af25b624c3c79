"""What goes on inside a sandbox while it is paused and woken, over and over: cases 36, 37 and 38."""

import math
import os
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest
from websockets.exceptions import WebSocketException

from lab import current, patience, wait_until
from lab.clients import web_client, websocket
from lab.sandboxes import GUEST_DIR, machine_record, sh, start_app
from lab.sdk import Leap0Client, Leap0Error

PAUSES = int(os.environ.get("LEAPBOX_TEST_PAUSES", "12"))
PORT = 8000
# The time-out of commands that would go on for much longer, on a machine that is not slow.
COMMAND_S = 6
HOSTNAME_ERRORS = (OSError, httpx.HTTPError, WebSocketException, EOFError)
# How somebody learns that a sandbox was paused under them. A time-out is none of it.
CUT_OFF = {
    *("RemoteProtocolError", "ReadError", "WriteError", "HTTPStatusError"),
    *("ConnectionClosedError", "ConnectionClosedOK"),
    "Leap0ConflictError",
}


class Talker:
    """A WebSocket client outside, which connects again whenever it is cut off."""

    def __init__(self, url: str, key: str):
        self.url, self.key = url, key
        self.heard = 0
        self.connections = 0
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._talk)

    def __enter__(self) -> "Talker":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()

    def _talk(self) -> None:
        while not self._stop.is_set():
            try:
                headers = {"authorization": self.key}
                with websocket(self.url, additional_headers=headers, open_timeout=patience(30)) as socket_:
                    self.connections += 1
                    self._say_and_hear(socket_)
            except HOSTNAME_ERRORS:
                # Cut off by a pause, or by the wake's own doing.
                self._stop.wait(0.05)

    def _say_and_hear(self, socket_) -> None:
        while not self._stop.is_set():
            said = f"{self.heard}?"
            socket_.send(said)
            if (answer := socket_.recv(timeout=patience(30))) != said:
                self.wrong.append(f"{said!r} came back as {answer!r}")
            self.heard += 1
            self._stop.wait(0.05)


@pytest.fixture
def counting(client, server):
    """A sandbox with the process that counts, and its URL."""
    sandbox = client.sandboxes.create(timeout=3600)
    for name in ("app.py", "counter.py"):
        sandbox.filesystem.write_file(path=f"/home/user/{name}", content=(GUEST_DIR / name).read_text())
    sh(sandbox, f"setsid python3 ~/counter.py {PORT} ~/counted >~/counter.log 2>&1 </dev/null &")
    url = sandbox.invoke_url("/", port=PORT).rstrip("/")
    with web_client(server) as web:
        wait_until("it counts", lambda: web.get(f"{url}/status").json()["count"] > 10, timeout=60)
    yield sandbox, url
    sandbox.delete()


def check_clock(status: dict, asked: float, before: dict) -> None:
    clock, now = status["clock"], time.time()
    assert asked - 2 <= clock["wall"] <= now + 2, f"the wall clock is {clock['wall'] - now:+.2f} s off"
    assert clock["backwards"] == 0 and clock["monotonic"] > before["clock"]["monotonic"], "monotonic time ran back"


@pytest.mark.production_driver
@pytest.mark.thorough
@pytest.mark.timeout(300 + 6 * PAUSES)
def test_case_37_a_process_that_counts_writes_and_serves_loses_nothing_in_many_pauses(counting, server, key):
    sandbox, url = counting
    spent = {"pause": 0.0, "wake": 0.0}
    with web_client(server) as web, Talker(url.replace("https://", "wss://") + "/ws", key) as talker:
        last = web.get(f"{url}/status").json()
        for _ in range(PAUSES):
            heard = talker.heard
            wait_until("the WebSocket client is answered", lambda: talker.heard > heard)
            begun = time.monotonic()
            sandbox.pause()
            spent["pause"] += time.monotonic() - begun
            begun, asked = time.monotonic(), time.time()
            answer = web.get(f"{url}/status")
            spent["wake"] += time.monotonic() - begun
            assert answer.status_code == 200, answer.text
            status = answer.json()
            assert status["count"] >= last["count"] and status["count"] == status["written"], (last, status)
            check_clock(status, asked, last)
            last = status
        wait_until("it counts on", lambda: web.get(f"{url}/status").json()["count"] > last["count"])
        assert web.get(f"{url}/verify", timeout=patience(60)).json() == []
        assert talker.wrong == [] and talker.connections >= PAUSES / 2
    print(
        f"{PAUSES} pauses of {spent['pause'] / PAUSES * 1000:.0f} ms, wakes of {spent['wake'] / PAUSES * 1000:.0f} ms"
    )
    check_the_file_system(sandbox, server)


def check_the_file_system(sandbox, server) -> None:
    """Files are on the disk as they are in memory, the guest's kernel never complained, and e2fsck does not either."""
    sh(sandbox, "pkill -f '[c]ounter.py'; sync")
    look = "cd ~/counted && sha256sum * | sort"
    before = sh(sandbox, look, timeout=int(patience(60)))
    sh(sandbox, "sudo sh -c 'echo 3 >/proc/sys/vm/drop_caches'")
    assert sh(sandbox, look, timeout=int(patience(60))) == before, "the disk has something else"
    complaints = [
        line for line in sh(sandbox, "sudo dmesg").splitlines() if "EXT4-fs error" in line or "I/O error" in line
    ]
    assert complaints == []
    sh(sandbox, "sync")
    disk = server.data_dir / "state" / "disks" / f"{machine_record(server.data_dir, sandbox.id)['name']}.ext4"
    copy = current().run_dir / "checked.ext4"
    subprocess.run(["cp", "--sparse=always", disk, copy], check=True)
    # It is mounted, so the first look replays its journal; "-p" refuses whatever only a person may repair.
    for options, accepted in (("-fp", (0, 1)), ("-fn", (0,))):
        done = subprocess.run(["e2fsck", options, copy], capture_output=True, text=True)
        assert done.returncode in accepted, f"e2fsck {options}: {done.stdout}{done.stderr}"
    copy.unlink()


def test_case_36_the_wall_clock_is_right_after_a_pause_of_some_length_and_monotonic_goes_on(sandbox):
    seconds = float(os.environ.get("LEAPBOX_TEST_PAUSE_SECONDS", "4"))
    look = "python3 -c 'import time; print(time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME))'"
    before = list(map(float, sh(sandbox, look).split()))
    sandbox.pause()
    paused = time.time()
    wait_until("it has slept", lambda: time.time() > paused + seconds, timeout=seconds + 5)
    asked = time.time()
    wall, *others = map(float, sh(sandbox, look).split())
    assert asked - 2 <= wall <= time.time() + 2, f"{wall - asked:+.2f} s off"
    assert all(after > earlier for after, earlier in zip(others, before[1:], strict=True)), "no clock ran back"


def test_case_38_a_pause_amid_busy_network_disk_and_connections_hangs_nothing(sandbox, server, key):
    with web_client(server) as web:
        url = start_app(sandbox, web)
    for number in range(2):
        ended = pause_amid(Busy(server, sandbox, url, key, number))
        assert {name: how for name, how in ended.items() if how not in CUT_OFF} == {}, "each knows that it was cut off"
        # The next request is answered as if nothing had been.
        assert sh(sandbox, "echo fine") == "fine\n", f"round {number}: {ended}"
        with web_client(server) as web:
            assert web.get(url).status_code == 200
        command = f"curl -s -o /dev/null -w '%{{http_code}}' --max-time {patience(20)} http://example.com/"
        assert sh(sandbox, command, timeout=int(patience(60))) == "200"
    # A command whose caller was cut off goes on without it, until its own time is up.
    count = "pgrep -xc 'dd|curl' || true"
    wait_until("they are over", lambda: sh(sandbox, count).strip() == "0", timeout=3 * COMMAND_S)


class Busy:
    """A sandbox's clients, one for every kind of connection, which go on until they are cut off."""

    CONNECTIONS = {"download", "upload", "events", "websocket"}

    def __init__(self, server, sandbox, url: str, key: str, number: int):
        self.server, self.sandbox, self.url, self.key, self.number = server, sandbox, url, key, number
        self.under_way: set[str] = set()
        # They take their time, so that none can be over before. After it, they do not: to see their end soon.
        self.paused = threading.Event()

    def clients(self) -> dict[str, Callable[[], None]]:
        # Nice: they take what CPU there is, and the look whether they run must not wait until their time is up.
        command = f"nice dd if=/dev/urandom of=/home/user/busy{self.number} bs=64k count=100000 conv=fsync"
        fetch = f"for i in $(seq 5000); do nice curl -s example.com/bytes/200000; done | wc -c # fetch{self.number}"
        return {
            "download": self.download,
            "upload": self.upload,
            "events": self.events,
            "websocket": self.talk,
            "disk": partial(self.execute, command),
            "network": partial(self.execute, fetch),
        }

    def are_under_way(self) -> bool:
        """All of them. What runs in the guest is looked for there, by what only this round's has in its command."""
        sh(self.sandbox, f"pgrep -f '[b]usy{self.number} ' && pgrep -f '[f]etch{self.number}'")
        return self.under_way == self.CONNECTIONS

    def download(self) -> None:
        # More than the sockets on the way hold.
        with web_client(self.server) as web, web.stream("GET", f"{self.url}/bytes/40000000") as answer:
            answer.raise_for_status()
            for _ in answer.iter_raw(65536):
                self.under_way.add("download")
                self.paused.wait(0.05)

    def upload(self) -> None:
        def body():
            for number in range(4000):
                if number == 10:
                    self.under_way.add("upload")
                yield b"x" * 65536
                self.paused.wait(0.02)

        # Over HTTP/1.1: over HTTP/2, httpx does not look for an answer while it waits to send.
        with web_client(self.server) as web:
            web.post(f"{self.url}/upload", content=body()).raise_for_status()

    def events(self) -> None:
        with web_client(self.server) as web, web.stream("GET", f"{self.url}/events") as answer:
            answer.raise_for_status()
            for _ in answer.iter_lines():
                self.under_way.add("events")

    def talk(self) -> None:
        url, headers = self.url.replace("https://", "wss://") + "/ws", {"authorization": self.key}
        with websocket(url, additional_headers=headers, open_timeout=patience(30)) as socket_:
            answered_after = 0
            while answered_after < 100:
                socket_.send("x" * 1000)
                socket_.recv(timeout=patience(30))
                self.under_way.add("websocket")
                answered_after += self.paused.is_set()

    def execute(self, command: str) -> None:
        with Leap0Client() as client:
            process = client.sandboxes.get(self.sandbox.id).process
            # Last, because its time is short.
            wait_until("the connections are under way", lambda: self.under_way == self.CONNECTIONS)
            process.execute(command=command, timeout=math.ceil(patience(COMMAND_S)), http_timeout=int(patience(90)))


def pause_amid(busy: Busy) -> dict[str, str]:
    """Pauses while all clients are at work, and tells how each of them ended."""
    clients = busy.clients()
    with ThreadPoolExecutor(len(clients)) as pool:
        futures = {name: pool.submit(until_disconnected, work) for name, work in clients.items()}
        try:
            wait_until("all are under way", busy.are_under_way)
            assert not any(future.done() for future in futures.values()), "all are busy when the pause begins"
            assert busy.sandbox.pause(http_timeout=patience(90)).state == "paused"
        finally:
            busy.paused.set()
        return {name: future.result(patience(90)) for name, future in futures.items()}


def until_disconnected(work: Callable[[], None]) -> str:
    try:
        work()
    except (*HOSTNAME_ERRORS, Leap0Error) as error:
        return type(error).__name__
    return "done"

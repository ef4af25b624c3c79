"""What goes on inside a sandbox while it is paused and woken, over and over: cases 36, 37 and 38."""

import json
import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from lab import current, patience, wait_until
from lab.clients import web_client
from lab.sandboxes import GUEST_DIR, machine_record, sh, start_app
from lab.sdk import Leap0Client, Leap0Error
from lab.waiting import SLOWNESS

# An emulated host takes several times as long for each.
PAUSES = int(os.environ.get("LEAPBOX_TEST_PAUSES", "50" if SLOWNESS == 1 else "4"))
PORT = 8000
COMMAND_S = int(patience(8))
HOSTNAME_ERRORS = (OSError, httpx.HTTPError, WebSocketException, EOFError)


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
                with connect(self.url, additional_headers={"authorization": self.key}) as socket_:
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
def test_case_37_a_process_that_counts_writes_and_serves_loses_nothing_in_fifty_pauses(counting, server, key):
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
    before = sh(sandbox, look, timeout=60)
    sh(sandbox, "sudo sh -c 'echo 3 >/proc/sys/vm/drop_caches'")
    assert sh(sandbox, look, timeout=60) == before, "the disk has something else"
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


def test_case_36_the_wall_clock_is_right_after_a_pause_of_some_length_and_monotonic_goes_on(client):
    seconds = float(os.environ.get("LEAPBOX_TEST_PAUSE_SECONDS", "4"))
    sandbox = client.sandboxes.create()
    look = "python3 -c 'import time; print(time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME))'"
    before = list(map(float, sh(sandbox, look).split()))
    sandbox.pause()
    paused = time.time()
    wait_until("it has slept", lambda: time.time() > paused + seconds, timeout=seconds + 5)
    asked = time.time()
    wall, *others = map(float, sh(sandbox, look).split())
    assert asked - 2 <= wall <= time.time() + 2, f"{wall - asked:+.2f} s off"
    assert all(after > earlier for after, earlier in zip(others, before[1:], strict=True)), "no clock ran back"
    sandbox.delete()


def test_case_38_a_pause_amid_busy_network_disk_and_connections_hangs_nothing(client, server, key):
    sandbox = client.sandboxes.create(timeout=3600)
    with web_client(server) as web:
        url = start_app(sandbox, web)
    ended: dict[str, str] = {}
    for round_number in range(2):
        with ThreadPoolExecutor(8) as pool:
            started = threading.Barrier(7)
            busy = busy_clients(sandbox, server, url, key)
            futures = {name: pool.submit(run_until_cut, started, work) for name, work in busy.items()}
            started.wait(patience(30))
            pause_when_possible(sandbox)
            for name, future in futures.items():
                ended[name] = future.result(patience(60))
        # Whoever was cut off knows it; the next request is answered as if nothing had been.
        assert sh(sandbox, "echo fine") == "fine\n", f"round {round_number}: {ended}"
        with web_client(server) as web:
            assert web.get(url).status_code == 200
        assert "200" in sh(sandbox, "curl -s -o /dev/null -w '%{http_code}' --max-time 20 http://example.com/")
    print(json.dumps(ended, indent=1))
    # A command whose caller was cut off goes on without it, until its own time is up.
    wait_until("they are over", lambda: sh(sandbox, "pgrep -xc 'dd|curl' || true").strip() == "0", timeout=COMMAND_S)
    sandbox.delete()


def busy_clients(sandbox, server, url: str, key: str) -> dict:
    """Every kind of connection through the house, kept busy for a minute if nobody cuts it off."""

    def download() -> None:
        with web_client(server) as web:
            web.get(f"{url}/bytes/100000000", timeout=patience(60))

    def upload() -> None:
        # Over HTTP/1.1: over HTTP/2, httpx does not look for an answer while it waits to send.
        with web_client(server) as web:
            web.post(f"{url}/upload", content=(b"x" * 65536 for _ in range(4000)), timeout=patience(60))

    def events() -> None:
        with web_client(server) as web, web.stream("GET", f"{url}/events", timeout=COMMAND_S) as stream:
            list(stream.iter_lines())

    def talk() -> None:
        with connect(url.replace("https://", "wss://") + "/ws", additional_headers={"authorization": key}) as socket_:
            for _ in range(2000):
                socket_.send("x" * 1000)
                socket_.recv(timeout=patience(30))

    def run(command: str):
        def execute() -> None:
            with Leap0Client() as client:
                client.sandboxes.get(sandbox.id).process.execute(
                    command=command, timeout=COMMAND_S, http_timeout=patience(90)
                )

        return execute

    return {
        "download": download,
        "upload": upload,
        "events": events,
        "websocket": talk,
        "disk": run("dd if=/dev/urandom of=/home/user/busy bs=64k count=100000 conv=fsync"),
        "network": run("for i in $(seq 500); do curl -s http://example.com/bytes/200000; done | wc -c"),
    }


def run_until_cut(started: threading.Barrier, work) -> str:
    """Tells how it ended; only to hang is wrong."""
    started.wait(patience(30))
    try:
        work()
    except (*HOSTNAME_ERRORS, Leap0Error) as error:
        return f"{type(error).__name__}: {error}"[:150]
    return "done"


def pause_when_possible(sandbox) -> None:
    """Pauses in the middle of it all. A request that comes just then may wake it at once."""
    with Leap0Client() as client:
        running = client.sandboxes.get(sandbox.id)
        wait_until("all are busy", lambda: int(sh(running, "pgrep -xc 'dd|curl' || true")) >= 1)
        assert client.sandboxes.pause(running.id, http_timeout=patience(60)).state == "paused"

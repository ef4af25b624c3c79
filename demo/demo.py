"""The whole life of a sandbox, driven by the official SDK and timed step by step.

Runs in the lab (`make demo`): the server's and the sandboxes' only network is the lab's fake internet.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
from websockets.sync.client import connect

from lab import Server, current, wait_until
from lab.clients import delete_all, web_client
from lab.sandboxes import GUEST_DIR
from lab.sdk import Leap0Client, Leap0NotFoundError, NetworkPolicyMode

COLOUR = sys.stdout.isatty()
BURST = 5
FIBONACCI = """\
def fibonacci():
    a, b = 0, 1
    while True:
        yield a
        a, b = b, a + b

numbers = fibonacci()
print(*(next(numbers) for _ in range(15)))
"""


def paint(text: str, code: str) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def say(text: str) -> None:
    """A line of detail below a step."""
    for line in text.rstrip().splitlines():
        print(f"       {paint(line, '2')}", flush=True)


class Steps:
    """Numbers the steps and prints how long each took."""

    def __init__(self) -> None:
        self.number = 0
        self.started = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self.number += 1
        print(f"  {self.number:>2}   {title:<58}", end="", flush=True)
        begun = time.monotonic()
        try:
            yield
        except BaseException:
            print(paint("failed", "31"), flush=True)
            raise
        print(paint(f"{duration(time.monotonic() - begun):>9}", "32"), flush=True)


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    server = Server(parser.parse_args().data_dir)
    steps = Steps()
    print(paint("\n  Leapbox: a sandbox's life, through the official Leap0 SDK\n", "1"), flush=True)
    with steps.step("start the server"):
        server.start()
    try:
        exports = server.env()
        os.environ.update(exports)
        say(f"API {exports['LEAP0_BASE_URL']}, sandboxes at https://<id>.{exports['LEAP0_SANDBOX_DOMAIN']}")
        with Leap0Client() as client, web_client(server) as web:
            delete_all(client)
            show_a_life(steps, client, web, exports)
            delete_all(client)
    finally:
        with steps.step("stop the server"):
            server.stop()
    print(f"\n  {paint('done', '1;32')} in {duration(time.monotonic() - steps.started)}\n", flush=True)


def show_a_life(steps: Steps, client: Leap0Client, web: httpx.Client, exports: dict[str, str]) -> None:
    with steps.step("create the first microVM of its shape"):
        client.sandboxes.create().delete()
    say("the very first time it boots, and its base snapshot is kept; later it is restored")
    with steps.step("create a microVM"):
        sandbox = client.sandboxes.create(env_vars={"GREETING": "hello from a microVM"})
    shape = f"{sandbox.vcpu} vCPU, {sandbox.memory} MiB, {sandbox.disk // 1024} GiB disk"
    say(f"{sandbox.id}: {shape}, {sandbox.state.value}")
    show_code_and_files(steps, sandbox)
    show_its_hostname(steps, sandbox, web, exports["LEAP0_API_KEY"])
    show_its_sleep(steps, client, sandbox, web)
    show_its_network_policy(steps, client)
    with steps.step(f"create {BURST} more, all at once"), ThreadPoolExecutor(BURST) as pool:
        others = list(pool.map(lambda _: client.sandboxes.create(), range(BURST)))
    with steps.step("a random UUID from each of them"), ThreadPoolExecutor(BURST) as pool:
        command = "cat /proc/sys/kernel/random/uuid"
        drawn = list(pool.map(lambda other: other.process.execute(command=command).stdout.strip(), others))
    say(f"{len(set(drawn))} different ones, although all are clones of one snapshot")
    with steps.step("delete them all"), ThreadPoolExecutor(BURST) as pool:
        list(pool.map(lambda doomed: doomed.delete(), [sandbox, *others]))
    with steps.step("ask for the deleted one"):
        try:
            client.sandboxes.get(sandbox.id)
            raise AssertionError("a deleted sandbox is still there")
        except Leap0NotFoundError as error:
            answer = str(error)
    say(answer)


def show_code_and_files(steps: Steps, sandbox) -> None:
    for command in ('echo "$GREETING"', "uname -sr; id -un; pwd"):
        with steps.step(f"run: {command}"):
            output = sandbox.process.execute(command=command).stdout
        say(" · ".join(output.split("\n")).strip(" ·"))
    with steps.step("write a Python file"):
        sandbox.filesystem.write_file(path="/workspace/fibonacci.py", content=FIBONACCI)
    with steps.step("run: python3 /workspace/fibonacci.py"):
        output = sandbox.process.execute(command="python3 /workspace/fibonacci.py").stdout
    say(output)
    with steps.step("list the folder and read the file back"):
        names = [item.name for item in sandbox.filesystem.ls(path="/workspace").items]
        same = sandbox.filesystem.read_file(path="/workspace/fibonacci.py") == FIBONACCI
    say(f"{names}, {'unchanged' if same else 'changed!'}")
    with steps.step("run: curl http://example.com/ (a fake internet)"):
        output = sandbox.process.execute(command="curl -sS --max-time 20 http://example.com/").stdout
    say(output)


def show_its_hostname(steps: Steps, sandbox, web: httpx.Client, key: str) -> None:
    sandbox.filesystem.write_file(path="/tmp/app.py", content=(GUEST_DIR / "app.py").read_text())
    sandbox.process.execute(command="setsid python3 /tmp/app.py 8000 >/tmp/app.log 2>&1 </dev/null &")
    url = sandbox.invoke_url("/", port=8000)
    with steps.step("start a web server in it and wait for its first answer"):
        wait_until("the web server answers", lambda: web.get(url).status_code == 200, timeout=60)
    with steps.step("GET its hostname"):
        answer = web.get(url)
    say(f"{url} → {answer.status_code} {answer.text}")
    address = sandbox.websocket_url("/ws", port=8000)
    with connect(address, additional_headers={"authorization": f"Bearer {key}"}) as socket:
        with steps.step("say something over WebSocket and hear it back"):
            socket.send("is anybody there?")
            echo = socket.recv(timeout=30)
    say(f"{address} → {echo}")


def show_its_sleep(steps: Steps, client: Leap0Client, sandbox, web: httpx.Client) -> None:
    look = "cat /dev/shm/thought; ps -o args= -C python3"
    sandbox.process.execute(command="echo 'what it had in memory' >/dev/shm/thought")
    with steps.step("pause it: memory, processes and disk are stored"):
        sandbox.pause()
    say(f"{sandbox.state.value}: no VM and no memory on the host")
    with steps.step("GET its hostname: the request wakes it"):
        answer = web.get(sandbox.invoke_url("/", port=8000))
    say(f"{answer.status_code} {answer.text}")
    with steps.step("look into its memory and at its processes"):
        output = sandbox.process.execute(command=look).stdout
    say(output)
    with steps.step("take a snapshot while it runs"):
        snapshot = sandbox.create_snapshot(name="demo")
    with steps.step("restore the snapshot into a new sandbox"):
        twin = client.snapshots.restore(snapshot_name=snapshot.name)
    say(f"{snapshot.name}: {sandbox.id} → {twin.id}")
    with steps.step("GET the new one's hostname: its web server runs already"):
        answer = web.get(twin.invoke_url("/", port=8000))
    say(f"{answer.status_code} {answer.text}")
    with steps.step("delete the new one and the snapshot"):
        twin.delete()
        client.snapshots.delete(snapshot)


def show_its_network_policy(steps: Steps, client: Leap0Client) -> None:
    secret = "Bearer of-the-platform"
    transform = {"domain": "api.example.com", "inject_headers": {"authorization": secret}}
    policy = {"mode": NetworkPolicyMode.CUSTOM, "allow_domains": ["example.com"], "transforms": [transform]}
    with steps.step("create a microVM that may reach example.com and api.example.com"):
        sandbox = client.sandboxes.create(network_policy=policy)
    with steps.step("run: curl http://example.com/ and http://example.net/"):
        allowed, denied = (
            sandbox.process.execute(command=f"curl -sS -o /dev/null -w '%{{http_code}}' http://{name}/")
            for name in ("example.com", "example.net")
        )
    say(f"example.com: {allowed.stdout} · example.net: {denied.stderr.strip()}")
    with steps.step("run: curl https://api.example.com/, whose requests get a credential on their way"):
        answer = sandbox.process.execute(command="curl -sS https://api.example.com/").stdout
    received = dict(current().internet_requests()[-1]["headers"]).get("authorization")
    assert received == secret and secret not in answer, (received, answer)
    say(f"its server received {received!r}, which is nowhere in the sandbox")
    with steps.step("delete it"):
        sandbox.delete()


if __name__ == "__main__":
    main()

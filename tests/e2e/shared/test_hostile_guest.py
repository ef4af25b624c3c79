"""The guest's root turns against its VMM, its own agent and its own memory: cases 1, 4 and 7.

Whatever it does, its sandbox's requests are answered in time, its neighbour does not notice, and it can be deleted.
"""

import contextlib
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from lab import patience, wait_until
from lab.footprint import resident_bytes, vmm_pids
from lab.sandboxes import GUEST_DIR, machine_record, sh
from lab.sdk import Leap0Client, Leap0Error

MIB = 1024 * 1024
SEEDS = [int(seed) for seed in os.environ.get("LEAPBOX_TEST_ATTACK_SEEDS", "1").split(",")]
ATTACK_S = 6
# What the server waits for a guest at most: 15 s for a small question, 20 s more than a command's own time-out.
SMALL_QUESTION_S, COMMAND_MARGIN_S = 15, 20
MARGIN_S = 10


@pytest.fixture
def neighbour(shared_sandbox):
    """A sandbox that must not notice anything."""
    assert sh(shared_sandbox, "echo fine") == "fine\n"
    yield shared_sandbox
    assert sh(shared_sandbox, "echo still fine") == "still fine\n"


@pytest.fixture
def hostile(server):
    """A sandbox whose root is up to no good. However it ends, it can be deleted."""
    with Leap0Client() as client:
        made = client.sandboxes.create(timeout=3600)
        pid = machine_record(server.data_dir, made.id)["pid"]
        yield made
        begun = time.monotonic()
        made.delete()
        assert time.monotonic() - begun < patience(15)
        # Of one that has failed the deletion does not wait for the VMM's end, which may be under way.
        wait_until("its VMM is gone", lambda: pid not in vmm_pids())


def detached(sandbox, script: str, *arguments: object) -> None:
    """Starts one of the guest's programs as its root, and leaves it alone."""
    path = f"/home/user/{script}"
    sandbox.filesystem.write_file(path=path, content=(GUEST_DIR / script).read_text())
    words = " ".join(map(str, arguments))
    sh(sandbox, f"setsid sudo python3 {path} {words} >/home/user/{script}.log 2>&1 </dev/null &")


def plain(api: httpx.Client, sandbox) -> dict:
    """What the API says of a sandbox, dead or alive."""
    return api.get(f"/v1/sandbox/{sandbox.id}").json()


@pytest.mark.production_driver
@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
def test_case_1_garbage_in_queues_and_registers_ends_its_own_vmm_at_worst(seed, hostile, neighbour, api):
    detached(hostile, "devices.py", seed, ATTACK_S)
    # Its answer comes in time, if one comes at all.
    with contextlib.suppress(Leap0Error):
        hostile.process.execute(command="true", timeout=1)
    assert sh(neighbour, "echo undisturbed") == "undisturbed\n"

    def ended() -> dict | None:
        found = plain(api, hostile)
        return found if found["state"] == "deleted" else None

    dead = wait_until("its end is reported", ended, timeout=90)
    # By a machine that was reset when the attack was over, or by a VMM that did not survive it.
    assert dead["state_reason"], dead
    print(f"seed {seed}: {dead['state_reason']}")


def test_case_1_a_new_sandbox_starts_from_untouched_memory_after_an_attack(client):
    sandbox = client.sandboxes.create()
    try:
        assert sh(sandbox, "ls /home/user; echo whole") == "whole\n"
    finally:
        sandbox.delete()


def answers_or_says_why(sandbox, command: str, timeout: int) -> None:
    """A command that ends, or a refusal a person can act on: never a bare 502, never silence."""
    begun = time.monotonic()
    try:
        sandbox.process.execute(command=command, timeout=timeout)
    except Leap0Error as error:
        assert error.status_code in (408, 409, 502, 503, 504), error
        assert re.search("memory|time|busy|try again|resource", str(error), re.IGNORECASE), (
            f"{error.status_code} {error}"
        )
    assert time.monotonic() - begun < patience(timeout + COMMAND_MARGIN_S + MARGIN_S)


def workload_count(sandbox, file: str, line: str = "") -> int:
    """A number the guest's kernel keeps of its workload's control group."""
    return int(sh(sandbox, f"grep '{line}' /sys/fs/cgroup/workload/{file}", timeout=20).split()[-1])


@pytest.mark.production_driver
@pytest.mark.thorough
def test_case_4_a_fork_bomb_leaves_the_agent_alive(hostile, neighbour):
    answers_or_says_why(hostile, "bomb() { bomb | bomb & }; bomb; sleep 60", timeout=8)
    wait_until("the agent answers", lambda: sh(hostile, "echo alive", timeout=20) == "alive\n", timeout=90)
    assert workload_count(hostile, "pids.peak") > 100, "it was a bomb"


def test_case_4_a_fork_bomb_in_the_background_is_told_apart_from_a_broken_sandbox(hostile, neighbour):
    code = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    hostile.filesystem.write_file(path="/tmp/bomb.py", content=code)
    sh(hostile, "setsid python3 /tmp/bomb.py >/dev/null 2>&1 </dev/null &")
    end = time.monotonic() + 10
    while time.monotonic() < end:
        answers_or_says_why(hostile, "echo alive", timeout=10)


@pytest.mark.production_driver
@pytest.mark.thorough
def test_case_4_a_memory_hog_is_killed_and_the_sandbox_goes_on(hostile, neighbour):
    hog = "python3 -c 'held = []\nwhile True: held.append(bytearray(b\"x\" * (16 << 20)))'"
    answers_or_says_why(hostile, hog, timeout=60)
    wait_until("the agent answers", lambda: sh(hostile, "echo alive", timeout=20) == "alive\n", timeout=60)
    assert workload_count(hostile, "memory.events", "oom_kill ") > 0, "it was killed for want of memory"


def test_case_4_memory_that_nothing_can_be_killed_for_is_told_as_such(hostile, neighbour, api):
    sh(hostile, "sudo mount -o remount,size=100% /dev/shm")
    answers_or_says_why(hostile, "head -c 3000000000 /dev/zero > /dev/shm/hog; echo $?", timeout=60)

    def settled() -> bool:
        found = plain(api, hostile)
        if found["state"] == "deleted":
            assert "memory" in found["state_reason"], found
            return True
        return sh(hostile, "rm -f /dev/shm/hog; echo alive", timeout=20) == "alive\n"

    wait_until("the agent answers, or the sandbox has failed for want of memory", settled, timeout=60)


@pytest.mark.production_driver
@pytest.mark.thorough
def test_case_7_an_agent_that_lies_gets_errors_in_time_and_bounded_memory(hostile, neighbour, server, api, web):
    detached(hostile, "impostor.py")

    def lies() -> bool:
        try:
            hostile.filesystem.exists(path="/tmp")
        except Leap0Error:
            return True
        return False

    wait_until("the impostor answers", lies)
    memory = resident_bytes(server.process.pid)
    base = f"/v1/sandbox/{hostile.id}"
    questions = [
        lambda: api.post(f"{base}/filesystem/exists", json={"path": "/tmp"}),
        lambda: api.post(f"{base}/process/execute", json={"command": "true", "timeout": 1}),
        lambda: web.get(hostile.invoke_url("/", port=8000)),
    ]

    def ask(number: int) -> tuple[int, str, float]:
        begun = time.monotonic()
        answer = questions[number % len(questions)]()
        return answer.status_code, answer.text, time.monotonic() - begun

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, range(24)))
    for status, text, took in answers:
        assert status in (502, 504), f"{status} {text}"
        assert text.strip(), "an error says what happened"
        assert took < SMALL_QUESTION_S + COMMAND_MARGIN_S + patience(MARGIN_S), f"{status} after {took:.1f} s"
    assert {status for status, _, _ in answers} == {502, 504}, "nonsense and silence are told apart"
    assert resident_bytes(server.process.pid) - memory < 64 * MIB
    assert plain(api, hostile)["state"] == "running", "its guest is not its VMM"


@pytest.mark.production_driver
@pytest.mark.thorough
def test_case_7_an_agent_overwritten_in_memory_is_a_failed_sandbox(hostile, neighbour, api):
    code = (
        "import re\n"
        "maps = [line.split() for line in open('/proc/1/maps')]\n"
        "memory = open('/proc/1/mem', 'wb', buffering=0)\n"
        "for place, rights, *_ in maps:\n"
        "    if 'x' in rights and 'w' not in rights:\n"
        "        start, end = (int(part, 16) for part in place.split('-'))\n"
        "        try: memory.seek(start); memory.write(b'\\xcc' * (end - start))\n"
        "        except OSError: pass\n"
    )
    hostile.filesystem.write_file(path="/home/user/overwrite.py", content=code)
    with contextlib.suppress(Leap0Error):
        hostile.process.execute(command="sudo python3 /home/user/overwrite.py", timeout=10)
    dead = wait_until(
        "its end is reported", lambda: (found := plain(api, hostile))["state"] == "deleted" and found, timeout=60
    )
    assert dead["state_reason"], dead

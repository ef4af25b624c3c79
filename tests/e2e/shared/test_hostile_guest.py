"""The guest's root turns against its VMM, its own agent and its own memory: cases 1, 4 and 7.

Whatever it does, its sandbox's requests are answered in time, its neighbour does not notice, and it can be deleted.
`LEAPBOX_TEST_ATTACK_SEEDS=1,2,3 LEAPBOX_TEST_ATTACK_SECONDS=30 make e2e ARGS="-k case_1_"` is the long form of case 1.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from lab import patience, wait_until
from lab.footprint import forget_peak, peak_bytes, vmm_pids
from lab.logs import Event, events_since
from lab.sandboxes import GUEST_DIR, machine_record, sh
from lab.sdk import Leap0Client, Leap0Error, Leap0NotFoundError

MIB = 1024 * 1024
SEEDS = [int(seed) for seed in os.environ.get("LEAPBOX_TEST_ATTACK_SEEDS", "1").split(",")]
ATTACK_S = float(os.environ.get("LEAPBOX_TEST_ATTACK_SECONDS", "4"))
# What the server waits for a guest at most: 15 s for a small question, 20 s more than a command's own time-out.
SMALL_QUESTION_S, COMMAND_MARGIN_S = 15, 20
MARGIN_S = 10
# How a VMM ends that does not survive what its guest does, as the log's field `exit` has it.
VMM_DIED = {"exited", "signalled", "out_of_memory", "hung"}
# Of what a kernel prints when it panics, the end is logged.
PANICKED = "Kernel panic|Call Trace|</TASK>|Kernel Offset"
# How long the bomb in the background goes off, and is asked about.
ASKED_S = 5
BOMB = """
import os
while True:
    try: os.fork()
    except OSError: pass
"""


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


@pytest.fixture
def ends(server, hostile) -> Callable[[], list[Event]]:
    """What the server has logged of the hostile sandbox's failure: nothing, or one event."""
    since = events_since(server)
    return lambda: [event for event in since("sandbox_failed") if event["sandbox"] == hostile.id]


def detached(sandbox, script: str, *arguments: object) -> None:
    """Starts one of the guest's programs as its root, and leaves it alone."""
    path = f"/home/user/{script}"
    sandbox.filesystem.write_file(path=path, content=(GUEST_DIR / script).read_text())
    words = " ".join(map(str, arguments))
    sh(sandbox, f"setsid sudo python3 {path} {words} >/home/user/{script}.log 2>&1 </dev/null &")


def plain(api: httpx.Client, sandbox) -> dict:
    """What the API says of a sandbox, dead or alive."""
    return api.get(f"/v1/sandbox/{sandbox.id}").json()


def assert_failed(api: httpx.Client, sandbox) -> None:
    shown = plain(api, sandbox)
    assert shown["state"] == "deleted" and shown["state_reason"], shown


def answers_or_says_why(sandbox, command: str, timeout: int) -> int:
    """A command that ends, or a refusal in time that says whether to try again; the status. Never silence."""
    begun, status = time.monotonic(), 200
    try:
        sandbox.process.execute(command=command, timeout=timeout)
    except Leap0Error as error:
        status = error.status_code
        # Its machine is gone; it broke the answer off; it is busy; it is silent.
        assert status in (409, 502, 503, 504), error
        assert error.error_message, f"{status} without a message"
        assert (status == 503) == ("retry-after" in error.headers), error.headers
    assert time.monotonic() - begun < timeout + COMMAND_MARGIN_S + patience(MARGIN_S)
    return status


def answered(sandbox, command: str) -> str:
    """What a command prints, or why it could not be asked: an answer to be looked at later."""
    try:
        return sh(sandbox, command)
    except Exception as error:
        return repr(error)


@pytest.mark.production_driver
@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
def test_case_1_garbage_in_queues_and_registers_ends_its_own_vmm_at_worst(seed, hostile, ends, neighbour, api, client):
    detached(hostile, "devices.py", seed, ATTACK_S)
    meanwhile = []

    def ended() -> list[Event]:
        meanwhile.append(answered(neighbour, "echo undisturbed"))
        return ends()

    with ThreadPoolExecutor(1) as pool:
        # Its guest channel is under attack, too.
        asked = pool.submit(answers_or_says_why, hostile, "true", 1)
        (end,) = wait_until("its end is reported", ended, timeout=90 + ATTACK_S)
    asked.result()
    assert set(meanwhile) == {"undisturbed\n"}
    print(f"seed {seed}: {end['exit']}, {end['reason']}")
    assert_failed(api, hostile)
    # It was reset when the attack was over, its kernel panicked of what devices wrote, or its VMM did not survive it.
    attacked = re.search(rf"devices\.py: [1-9]\d* attacks|{PANICKED}", end["console"])
    assert attacked or end["exit"] in VMM_DIED, end
    assert end["exit"] in VMM_DIED | {"guest_shutdown"}, end
    later = client.sandboxes.create()
    try:
        assert sh(later, "ls /home/user; echo whole") == "whole\n", "the next one starts from untouched memory"
    finally:
        later.delete()


def workload_count(sandbox, file: str, name: str | None = None) -> int:
    """A number the guest's kernel keeps of its workload's control group. The agent reads it and starts no process."""
    text = sandbox.filesystem.read_file(path=f"/sys/fs/cgroup/workload/{file}")
    rows = [line.split() for line in text.splitlines()]
    (number,) = [row[-1] for row in rows if row[:-1] == ([name] if name else [])]
    return int(number)


def is_alive(sandbox) -> bool:
    return sh(sandbox, "echo alive", timeout=20) == "alive\n"


@pytest.mark.production_driver
@pytest.mark.thorough
def test_case_4_fork_bombs_leave_the_agent_alive_and_are_told_apart_from_a_broken_sandbox(hostile, neighbour):
    answers_or_says_why(hostile, "bomb() { bomb | bomb & }; bomb; sleep 60", timeout=6)
    wait_until("the agent answers", lambda: is_alive(hostile), timeout=90)
    assert workload_count(hostile, "pids.peak") > 100, "it was a bomb"

    hostile.filesystem.write_file(path="/tmp/bomb.py", content=BOMB)
    # The bomb goes on until the fixture deletes the sandbox.
    sh(hostile, "setsid python3 /tmp/bomb.py >/dev/null 2>&1 </dev/null &")
    asked_until = time.monotonic() + ASKED_S
    while time.monotonic() < asked_until:
        answers_or_says_why(hostile, "echo alive", timeout=10)
    wait_until("the agent tells that it is a bomb", lambda: workload_count(hostile, "pids.current") > 100, timeout=90)


@pytest.mark.production_driver
@pytest.mark.thorough
def test_case_4_a_memory_hog_is_killed_and_the_sandbox_goes_on(hostile, neighbour):
    hog = "python3 -c 'held = []\nwhile True: held.append(bytearray(b\"x\" * (16 << 20)))'"
    answers_or_says_why(hostile, hog, timeout=int(patience(60)))
    wait_until("the agent answers", lambda: is_alive(hostile), timeout=60)
    assert workload_count(hostile, "memory.events", "oom_kill") > 0, "it was killed for want of memory"


def is_full(sandbox) -> bool:
    """Whether its workload has met the limit of its memory, and is still close to it."""
    held, limit = workload_count(sandbox, "memory.current"), workload_count(sandbox, "memory.max")
    return workload_count(sandbox, "memory.events", "max") > 0 and held > 0.9 * limit


@pytest.mark.timeout(400)
def test_case_4_memory_that_nothing_can_be_killed_for_is_told_as_such(hostile, ends, neighbour, api):
    sh(hostile, "sudo mount -o remount,size=100% /dev/shm")
    # What lies in /dev/shm is no process's. Close to the limit, the kernel takes the writer's own program out of memory
    # and reads it in again, page by page: it may be killed for memory early or late, or end by its time-out.
    answers_or_says_why(hostile, "head -c 3000000000 /dev/zero > /dev/shm/hog", timeout=int(patience(60)))
    wait_until("memory has run out", lambda: ends() or is_full(hostile), timeout=90)
    if not ends():
        answers_or_says_why(hostile, "echo alive", timeout=5)

    def goes_on() -> bool:
        # By the agent, which may not be killed for memory: a command may find none to start with.
        with contextlib.suppress(Leap0NotFoundError):
            hostile.filesystem.delete(path="/dev/shm/hog")
        return is_alive(hostile)

    wait_until("there is room again, or the sandbox has failed", lambda: ends() or goes_on(), timeout=90)
    for end in ends():
        assert end["exit"] in ("guest_shutdown", "out_of_memory"), end
        assert_failed(api, hostile)


@pytest.mark.production_driver
@pytest.mark.thorough
def test_case_7_an_agent_that_lies_gets_errors_in_time_and_bounded_memory(hostile, neighbour, server, api, web):
    detached(hostile, "impostor.py")

    def lies() -> bool:
        try:
            hostile.filesystem.exists(path="/tmp")
        except Leap0Error as error:
            return error.status_code in (502, 504)
        return False

    wait_until("the impostor answers", lies)
    memory = forget_peak(server.process.pid)
    base, command = f"/v1/sandbox/{hostile.id}", {"command": "true", "timeout": 1}
    # Silence is noticed after the time that the kind of question has.
    questions = [
        (lambda: api.post(f"{base}/filesystem/exists", json={"path": "/tmp"}), SMALL_QUESTION_S),
        (lambda: api.post(f"{base}/process/execute", json=command), command["timeout"] + COMMAND_MARGIN_S),
        (lambda: web.get(hostile.invoke_url("/", port=8000)), SMALL_QUESTION_S),
    ]

    def ask(number: int) -> httpx.Response:
        question, at_most = questions[number % len(questions)]
        begun = time.monotonic()
        answer = question()
        took = time.monotonic() - begun
        assert took < at_most + patience(MARGIN_S), f"{answer.status_code} after {took:.1f} s"
        return answer

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, range(24)))
    for answer in answers:
        assert answer.json()["message"], "an error says what happened"
    assert {answer.status_code for answer in answers} == {502, 504}, "nonsense and silence are told apart"
    assert peak_bytes(server.process.pid) - memory < 64 * MIB
    assert plain(api, hostile)["state"] == "running", "its guest is not its VMM"


@pytest.mark.production_driver
@pytest.mark.thorough
def test_case_7_an_agent_overwritten_in_memory_is_a_failed_sandbox(hostile, ends, neighbour, api):
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
    answers_or_says_why(hostile, "sudo python3 /home/user/overwrite.py", timeout=5)
    (end,) = wait_until("its end is reported", ends, timeout=60)
    assert end["exit"] == "guest_shutdown", "a kernel panics without its first process"
    assert_failed(api, hostile)

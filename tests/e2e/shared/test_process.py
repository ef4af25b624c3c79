"""process/execute: what a command sees, how it ends, and what bounds it."""

import time

import pytest

from lab import patience, wait_until
from lab.sandboxes import sh
from lab.sdk import Leap0NotFoundError

STREAM_MAX = 5 << 20
TIMED_OUT = 124


@pytest.fixture
def box(shared_sandbox):
    return shared_sandbox


def test_output_and_exit_code_are_told_apart(box):
    result = box.process.execute(command="echo out; echo err >&2; exit 3")
    assert (result.exit_code, result.stdout, result.stderr) == (3, "out\n", "err\n")


def test_a_command_runs_as_the_images_user_in_its_workdir(box):
    assert sh(box, "id -un; id -u; pwd; echo $HOME") == "user\n1000\n/home/user\n/home/user\n"


def test_sudo_needs_no_password(box):
    assert sh(box, "sudo id -u") == "0\n"


def test_a_working_directory_is_used_and_a_missing_one_is_not_found(box):
    assert sh(box, "pwd", cwd="/usr/share") == "/usr/share\n"
    with pytest.raises(Leap0NotFoundError):
        box.process.execute(command="pwd", cwd="/no/such/place")


def test_a_command_past_its_timeout_is_ended_with_all_its_children(box):
    started = time.monotonic()
    result = box.process.execute(command="sleep 601 & sleep 602", timeout=2)
    assert result.exit_code == TIMED_OUT, result
    assert 2 <= time.monotonic() - started < patience(20)
    wait_until("both are gone", lambda: sh(box, "pgrep -x sleep || true") == "")


def test_much_output_is_cut_at_its_bound_and_does_not_hurt_the_sandbox(box):
    result = box.process.execute(command="head -c 8000000 /dev/zero | tr '\\0' x", timeout=int(patience(60)))
    assert (result.exit_code, len(result.stdout)) == (0, STREAM_MAX)
    assert sh(box, "echo still here") == "still here\n"


def test_orphans_are_reaped_by_the_agent(box):
    # Each waits for a word to end, so that all have lost their parent by then.
    waits = "setsid sh -c 'until [ -e /tmp/end ]; do sleep 0.1; done' >/dev/null 2>&1 </dev/null & echo $!"
    pids = ",".join(sh(box, f"rm -f /tmp/end; for each in 1 2 3 4 5; do {waits}; done").split())
    assert sh(box, f"ps -o ppid= -p {pids}").split() == ["1"] * 5, "they are the agent's"
    sh(box, "touch /tmp/end")
    wait_until("they are gone, zombies too", lambda: not sh(box, f"ps -o pid= -p {pids} || true").strip())


def test_tools_of_the_template_are_there(box):
    tools = "bash curl git python3 ip ps sudo"
    assert sh(box, f"for tool in {tools}; do command -v $tool >/dev/null || echo $tool; done") == ""
    sh(box, "test -s /etc/ssl/certs/ca-certificates.crt && test -w /workspace")

"""process/execute: what a command sees, how it ends, and what bounds it."""

import time

import pytest

from lab.sandboxes import sh
from lab.sdk import Leap0Error


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


def test_the_calls_environment_is_added_to_the_sandboxes_own(client):
    sandbox = client.sandboxes.create(env_vars={"KEPT": "kept", "REPLACED": "old"})
    try:
        command = 'echo "$KEPT $REPLACED $ADDED"'
        assert sh(sandbox, command, env={"REPLACED": "new", "ADDED": "added"}) == "kept new added\n"
        assert sh(sandbox, command) == "kept old \n"
    finally:
        sandbox.delete()


def test_a_working_directory_is_used_and_a_missing_one_is_an_error(box):
    assert sh(box, "pwd", cwd="/usr/share") == "/usr/share\n"
    with pytest.raises(Leap0Error) as refusal:
        box.process.execute(command="pwd", cwd="/no/such/place")
    assert refusal.value.status_code in (400, 404)
    assert "/no/such/place" in str(refusal.value)


def test_a_command_past_its_timeout_is_ended_with_all_its_children(box):
    started = time.monotonic()
    try:
        result = box.process.execute(command="sleep 61 & sleep 62", timeout=2)
        assert result.exit_code != 0
    except Leap0Error as error:  # an error answer is as clear as an exit code
        assert error.status_code in (408, 504), error
    assert time.monotonic() - started < 20
    assert sh(box, "pgrep -c 'sleep' || true").strip() == "0"


def test_much_output_is_bounded_and_does_not_hurt_the_sandbox(box):
    try:
        result = box.process.execute(command="head -c 64000000 /dev/zero | tr '\\0' x", timeout=120)
        assert len(result.stdout) <= 10 * 1024 * 1024
    except Leap0Error as error:
        assert error.status_code in (413, 502), error
    assert sh(box, "echo still here") == "still here\n"


def test_output_that_is_not_utf_8_is_answered_all_the_same(box):
    assert "ok" in box.process.execute(command="printf '\\377\\376 ok'").stdout


def test_orphans_are_reaped_by_the_agent(box):
    sh(box, "for i in 1 2 3 4 5; do (setsid sh -c 'sleep 0.1' >/dev/null 2>&1 &) ; done; sleep 1")
    assert sh(box, "ps -eo stat= | grep -c '^Z' || true").strip() == "0"


def test_tools_of_the_template_are_there(box):
    for tool in ("bash", "curl", "git", "python3", "ip", "ps", "sudo"):
        sh(box, f"command -v {tool}")
    sh(box, "test -s /etc/ssl/certs/ca-certificates.crt && test -w /workspace")

"""The suite's runner: what it starts and when, what it counts, and that stopping it leaves nothing."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab import wait_until
from suite import events, libtest, parts, schedule
from suite.cargo import Executable
from suite.job import Job
from suite.report import Report

TESTS_DIR = Path(__file__).resolve().parents[1]


def job(name: str, script: str, **more) -> Job:
    return Job(name, "part", ["sh", "-c", script], **more)


def run(tmp_path: Path, *jobs: Job) -> dict:
    """Runs the jobs; returns what the report keeps of their part, and the verdict."""
    report = Report()
    schedule.run(list(jobs), tmp_path, report)
    passed = report.conclude()
    report.save(tmp_path / "report.json")
    return {**json.loads((tmp_path / "report.json").read_text())["parts"]["part"], "passed": passed}


def printed(name: str, outcome: str) -> str:
    """A shell command that tells of a test's end."""
    return f"printf '%s' '{events.line(events.TestEnded(name, outcome, 0.1))}'"


def test_the_end_of_a_test_is_read_from_the_line_that_tells_it():
    ended = events.TestEnded("file::test[ü]", events.FAILED, 1.5, "line one\nline two")
    told = ("a line without an end" + events.line(ended)).splitlines()
    assert [found for line in told if (found := events.read(line))] == [ended]


def test_a_job_runs_after_what_it_needs_and_not_if_that_failed(tmp_path):
    found = run(
        tmp_path,
        job("second", f"test -e {tmp_path}/first", needs=("first",), seconds=100),
        job("first", f"sleep 0.2; touch {tmp_path}/first"),
        job("broken", "echo why; exit 3"),
        job("never", f"touch {tmp_path}/never", needs=("broken",)),
    )
    assert found["broken"] == ["broken", "never"] and not found["passed"]
    assert not (tmp_path / "never").exists()


def test_tests_are_counted_and_a_second_try_decides(tmp_path):
    script = [printed("good", events.PASSED), printed("shaky", events.FAILED_ONCE), printed("shaky", events.PASSED)]
    assert run(tmp_path, job("tests", "; ".join(script)))["passed"]
    assert not run(tmp_path, job("tests", "; ".join(script[:2])))["passed"], "a second try that never came"


def test_a_failed_test_fails_the_run_even_if_its_job_says_nothing(tmp_path):
    assert not run(tmp_path, job("tests", printed("bad", events.FAILED)))["passed"]


def test_what_has_failed_stays_failed_and_a_status_is_never_ignored(tmp_path):
    script = [printed("bad", events.FAILED), printed("bad", events.PASSED)]
    assert not run(tmp_path, job("tests", "; ".join(script)))["passed"]
    found = run(tmp_path, job("tests", "; ".join([printed("good", events.PASSED), "exit 1"])))
    assert found["broken"] == ["tests"] and not found["passed"]


def test_a_job_of_tests_that_tells_of_none_fails(tmp_path):
    assert run(tmp_path, job("tests", "true", has_tests=True))["broken"] == ["tests"]


@pytest.mark.parametrize("script", ["sleep 60", "trap 'exit 0' TERM; sleep 60 & wait"], ids=["ended", "ends with 0"])
def test_a_job_that_runs_out_of_time_is_ended_and_fails(tmp_path, script):
    found = run(tmp_path, job("slow", script, deadline=1))
    assert found["broken"] == ["slow"] and found["seconds"] < 30


def test_files_are_dealt_to_jobs_of_about_equal_length():
    weights = {"a": 90, "b": 50, "c": 40, "d": 10, "e": 10}
    assert parts.pack(weights, 100) == [(["a", "d"], 100), (["b", "c", "e"], 100)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_stopping_a_run_ends_everything_it_started(tmp_path, number):
    pids = tmp_path / "pids"
    script = (
        "from pathlib import Path\nfrom suite import schedule\n"
        "from suite.job import Job\nfrom suite.report import Report\n"
        f"jobs = [Job(name, 'part', ['sh', '-c', 'echo $$ >>{pids}; sleep 300 & echo $! >>{pids}; wait'], cores=0.5)"
        " for name in ('one', 'two')]\n"
        f"try: schedule.run(jobs, Path('{tmp_path}'), Report())\n"
        "except schedule.Interrupted: raise SystemExit(130)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(TESTS_DIR)}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.DEVNULL) as runner:
        started = wait_until("both jobs run", lambda: (found := pids.read_text().split()) and len(found) == 4 and found)
        runner.send_signal(number)
        assert runner.wait(timeout=30) == 130
    wait_until("their processes are gone", lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


def test_a_rust_executable_that_crashes_is_a_failure_of_the_test_that_ran(tmp_path, capfd):
    crashing = tmp_path / "crashing-0123456789abcdef"
    crashing.write_text('#!/bin/sh\necho \'{"type":"test","event":"started","name":"deep::inside"}\'\nkill -ABRT $$\n')
    crashing.chmod(0o755)
    assert libtest.run(Executable("crate", "crate", crashing, tmp_path), 1, []) == 2
    told = [found for line in capfd.readouterr().out.splitlines() if (found := events.read(line))]
    assert [(found.name, found.outcome) for found in told] == [("crate::deep::inside", events.FAILED)]

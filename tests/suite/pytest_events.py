"""A pytest plugin (`-p suite.pytest_events`) that prints an event as each test ends, in place of pytest's dots.

With `LEAPBOX_SUITE_TRIES_LEFT` in the environment, a failure is told as one that is tried again.
"""

import os
import sys

import pytest

from suite import events


class _Test:
    """What is known so far of a running test: its phases are told one by one."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.outcome = events.PASSED
        self.log: list[str] = []
        self.in_setup = False

    def fail(self, phase: str) -> None:
        """A second try makes everything anew, so it would not show again what was left behind by the first one."""
        self.outcome = events.FAILED if phase == "teardown" else _FAILURE
        self.in_setup |= phase == "setup"


_running: dict[str, _Test] = {}
_FAILURE = events.FAILED_ONCE if os.environ.get("LEAPBOX_SUITE_TRIES_LEFT") else events.FAILED


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report):
    # No letters: the runner prints a line for each test.
    return (report.outcome if report.when == "call" or report.outcome != "passed" else ""), "", ""


def pytest_runtest_logreport(report):
    test = _running.setdefault(report.nodeid, _Test())
    test.seconds += report.duration
    if report.failed:
        test.fail(report.when)
        test.log.append(f"{report.when}: {report.longreprtext}")
        test.log += [f"-- {title}\n{text}" for title, text in report.sections]
    elif report.skipped and test.outcome == events.PASSED:
        test.outcome = events.SKIPPED
        test.log.append(str(report.longrepr))
    if report.when == "teardown":
        del _running[report.nodeid]
        log = "\n".join(test.log)
        _tell(events.TestEnded(report.nodeid, test.outcome, round(test.seconds, 2), log, test.in_setup))


def pytest_collectreport(report):
    if report.failed:
        _tell(events.TestEnded(report.nodeid or "collection", events.FAILED, 0.0, report.longreprtext))


def _tell(ended: events.TestEnded) -> None:
    # pytest's own standard output is the terminal's here: nothing is captured while a report is told.
    sys.stdout.write(events.line(ended))
    sys.stdout.flush()

"""What a run prints: a line for each test as it ends, the whole log of a failure, and the tables at the end."""

import json
import math
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from suite import events
from suite.events import TestEnded
from suite.job import Ended, Job

_SLOWEST = 10
_TAIL_LINES = 120
# Characters of a failure's reason beside its name.
_REASON = 200
_FAILURES = (events.FAILED, events.FAILED_ONCE)
_SIGNS = {events.PASSED: "ok", events.FAILED: "FAILED", events.SKIPPED: "skipped", events.FAILED_ONCE: "again"}


@dataclass
class _Part:
    """One row of the table."""

    tests: dict[str, TestEnded] = field(default_factory=dict)
    # Jobs that failed although none of their tests did.
    broken: list[str] = field(default_factory=list)
    second_tries: set[str] = field(default_factory=set)
    started: float | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def count(self, outcome: str) -> int:
        """How many of its tests ended so."""
        return sum(test.outcome == outcome for test in self.tests.values())

    def failed(self) -> int:
        """Tests that failed, those whose second try was never told of, and jobs that broke."""
        return self.count(events.FAILED) + self.count(events.FAILED_ONCE) + len(self.broken)


class Report:
    """Takes what the schedule tells, prints it, and knows the verdict."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._parts: dict[str, _Part] = {}
        # Names of the tests that each job has told of.
        self._told_by: dict[str, set[str]] = {}
        self._failed_jobs: set[str] = set()

    def started(self, job: Job) -> None:
        """A job's process runs."""
        part = self._parts.setdefault(job.part, _Part())
        part.started = self._now() if part.started is None else part.started
        self._say("──", None, f"{job.name}: started")

    def test(self, job: Job, ended: TestEnded) -> None:
        """A test of the job ended."""
        part = self._parts[job.part]
        known = part.tests.get(ended.name)
        # What has failed stays failed, also if a machine that died is started again and runs it once more.
        if known is None or known.outcome != events.FAILED:
            part.tests[ended.name] = ended
        if ended.outcome == events.FAILED_ONCE:
            part.second_tries.add(ended.fault)
        self._told_by.setdefault(job.name, set()).add(ended.name)
        self._say(_SIGNS[ended.outcome], ended.seconds, f"{job.part}  {ended.name}")
        if ended.outcome in _FAILURES:
            self._print("\n".join(f"    | {line}" for line in ended.log.splitlines()))

    def ended(self, job: Job, ended: Ended, log: Path) -> bool:
        """A job's process ended; returns whether it passed."""
        part = self._parts[job.part]
        part.seconds = self._now() - (part.started or 0.0)
        part.cpu_seconds += ended.cpu_seconds
        how = f"{ended.seconds:.0f} s, {ended.cpu_seconds:.0f} s of CPU"
        told = self._told_by.get(job.name, set())
        if ended.timed_out:
            what = f"ran out of its {job.deadline:.0f} s"
        elif ended.status != 0:
            what = f"ended with {ended.status}"
        elif job.has_tests and not told:
            what = "told of no test"
        else:
            self._say("──", None, f"{job.name}: done in {how}")
            return True
        self._say("──", None, f"{job.name}: FAILED, {what} after {how}; its log is {log}")
        self._failed_jobs.add(job.name)
        if not any(part.tests[name].outcome in _FAILURES for name in told):
            part.broken.append(job.name)
            self._print(_tail(log))
        return False

    def skipped(self, job: Job, failed: list[str]) -> None:
        """A job does not run, because something it needs failed."""
        part = self._parts.setdefault(job.part, _Part())
        part.broken.append(job.name)
        self._failed_jobs.add(job.name)
        self._say("──", None, f"{job.name}: NOT RUN, because {', '.join(failed)} failed")

    def conclude(self) -> bool:
        """Prints the tables; returns whether everything passed."""
        self._print(f"\nthe {_SLOWEST} slowest tests, seconds")
        slowest = sorted(self._tests(), key=lambda test: -test.seconds)[:_SLOWEST]
        for test in slowest:
            self._print(f"  {test.seconds:7.1f}  {test.name}")
        self._print(f"\n{'part':<22}{'tests':>7}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}{'CPU s':>8}")
        for name, part in self._parts.items():
            self._print(
                f"{name:<22}{len(part.tests):>7}{part.count(events.PASSED):>8}{part.failed():>8}"
                f"{part.count(events.SKIPPED):>9}{part.seconds:>9.0f}{part.cpu_seconds:>8.0f}"
            )
        cpu = sum(part.cpu_seconds for part in self._parts.values())
        self._print(f"{'on the wall':<54}{self._now():>9.0f}{cpu:>8.0f}")
        for name, part in self._parts.items():
            if part.second_tries:
                self._print(f"{name}: {len(part.second_tries)} of {len(part.tests)} tests needed a second try")
        # Last, because who keeps only the end of a long output still has to learn what failed.
        self._print_failures()
        passed, skipped = self._count(events.PASSED), self._count(events.SKIPPED)
        failed = sum(part.failed() for part in self._parts.values())
        self._print(f"\n{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
        return failed == 0 and not self._failed_jobs

    def save(self, file: Path) -> None:
        """Every test with its seconds, for whoever wants to compare runs."""
        parts = {
            name: {
                "seconds": round(part.seconds, 1),
                "cpu_seconds": round(part.cpu_seconds, 1),
                "broken": part.broken,
                "tests": [
                    {name: value for name, value in asdict(test).items() if name != "log"}
                    for test in part.tests.values()
                ],
            }
            for name, part in self._parts.items()
        }
        file.write_text(json.dumps({"seconds": round(self._now(), 1), "parts": parts}, indent=1) + "\n")

    def seconds_by_file(self, name: str) -> dict[str, float]:
        """What each file of a pytest part took, rounded up to a second."""
        found: dict[str, float] = {}
        for test in self._parts[name].tests.values():
            file = test.name.partition("::")[0]
            found[file] = found.get(file, 0.0) + test.seconds
        return {file: math.ceil(seconds) for file, seconds in sorted(found.items())}

    def _print_failures(self) -> None:
        failed = [f"{test.name}: {_reason(test)}" for test in self._tests() if test.outcome in _FAILURES]
        broken = [f"{name} (the job itself)" for part in self._parts.values() for name in part.broken]
        if failed or broken:
            self._print("\nfailed:")
            for name in failed + broken:
                self._print(f"  {name}")

    def _tests(self) -> list[TestEnded]:
        return [test for part in self._parts.values() for test in part.tests.values()]

    def _count(self, outcome: str) -> int:
        return sum(part.count(outcome) for part in self._parts.values())

    def _now(self) -> float:
        return time.monotonic() - self._begun

    def _say(self, sign: str, seconds: float | None, text: str) -> None:
        took = f"{seconds:6.1f} s" if seconds is not None else " " * 8
        self._print(f"[{self._now():5.0f} s] {sign:<7} {took}  {text}")

    def _print(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _reason(test: TestEnded) -> str:
    """The line of a failure's log that says the most: pytest's first `E` line, or a panic's first line."""
    lines = [line.strip() for line in test.log.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("E ")]
    told = told or [after for line, after in zip(lines, lines[1:], strict=False) if "panicked at" in line]
    return (told or lines or ["it left no log"])[0].removeprefix("E ").strip()[:_REASON]


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(f"    | {line}" for line in lines[-_TAIL_LINES:])

"""What there is to run: every part of the suite as jobs.

Builds come first and feed the rest. The KVM test host is one job with the longest way to its end, so it starts as soon
as it can. The end-to-end tests are packed into jobs of about equal length, each in a lab of its own: those that share
one server apart from those that make their own.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from suite import events
from suite.job import Job

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
# Seconds of each end-to-end test file, as `--record` wrote them after a run. They only decide the order.
SECONDS = TESTS / "suite" / "seconds.json"
# A lab, a server and its first base take some seconds in each job; a long job may be the last one to end.
_SECONDS_PER_JOB = 100
# What a file takes that no run has recorded yet.
_UNKNOWN_SECONDS = 20
_AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "--preserve-env"]
# Tests wait for a machine that runs several labs at once: see lab/waiting.py.
_BESIDE_OTHERS = {"LEAPBOX_TEST_SLOWNESS": "2"}

SELFTEST, UNIT, CONFORMANCE = "lab", "unit", "conformance, QEMU"
E2E, KVM = "end to end, QEMU", "Firecracker"


@dataclass(frozen=True)
class Places:
    """Where things are built."""

    target: Path

    @property
    def python(self) -> str:
        """The virtual environment's Python."""
        return str(self.target / "venv/bin/python")

    @property
    def messages(self) -> Path:
        """What Cargo said when it built the test executables."""
        return self.target / "test-executables.json"

    def in_lab(self, *argv: str) -> list[str]:
        """The command, in a lab of its own, which only root can make."""
        return [*_AS_ROOT, self.python, "-m", "lab", "run", "--base", str(self.target / "lab"), "--", *argv]


def all_jobs(places: Places) -> list[Job]:
    """Everything that `make test` runs."""
    return [*_builds(places), *_cheap(places), *_conformance(places), *_end_to_end(places), _kvm(places)]


def _builds(places: Places) -> list[Job]:
    def make(name: str, part: str, *recipes: str, **more) -> Job:
        return Job(name, part, ["make", *recipes], **more)

    return [
        make("packages", "install packages", "packages", seconds=20, cores=0.5),
        make("venv", "Python packages", "venv", seconds=15, cores=0.5),
        make("build", "build: release, agent", "build", seconds=260, cores=2),
        make("artifacts", "build: guest", "artifacts", needs=("build", "packages"), seconds=40),
        make("build-tests", "build: tests", "build-tests", after=("build",), seconds=150, cores=2),
    ]


def _cheap(places: Places) -> list[Job]:
    unit = [places.python, "-m", "suite.libtest", "--cargo", str(places.messages), "--without", "conformance"]
    return [
        Job(
            "selftest",
            SELFTEST,
            places.in_lab(*_pytest(places, "tests/selftest")),
            ("venv", "packages"),
            seconds=10,
            has_tests=True,
        ),
        Job("unit", UNIT, places.in_lab(*unit), ("venv", "packages", "build-tests"), seconds=150, has_tests=True),
    ]


def _conformance(places: Places) -> list[Job]:
    libtest = [places.python, "-m", "suite.libtest", "--cargo", str(places.messages), "--only", "conformance"]
    environment = {
        "LEAPBOX_CONFORMANCE_DRIVER": "qemu",
        "LEAPBOX_LAUNCHER": str(places.target / "release/leapbox"),
        **_BESIDE_OTHERS,
    }
    needs = ("venv", "artifacts", "build-tests")
    argv = places.in_lab(*libtest, "--threads", "2", "--", "--include-ignored")
    return [Job("conformance", CONFORMANCE, argv, needs, seconds=100, has_tests=True, environment=environment)]


def _end_to_end(places: Places) -> list[Job]:
    jobs = []
    known = json.loads(SECONDS.read_text())
    for kind in ("shared", "own"):
        files = sorted(path.relative_to(TESTS).as_posix() for path in (TESTS / "e2e" / kind).glob("test_*.py"))
        weights = {file: known.get(file, _UNKNOWN_SECONDS) for file in files}
        for number, (files_of_job, seconds) in enumerate(pack(weights, _SECONDS_PER_JOB), start=1):
            argv = places.in_lab(*_pytest(places, *(f"tests/{file}" for file in files_of_job)))
            needs = ("venv", "artifacts")
            name = f"e2e-{kind}-{number}"
            jobs.append(Job(name, E2E, argv, needs, seconds=seconds, has_tests=True, environment=_BESIDE_OTHERS))
    return jobs


def _kvm(places: Places) -> Job:
    argv = [*_AS_ROOT, places.python, "-m", "kvmhost", "suite", "--brief", "--cargo", str(places.messages)]
    needs = ("venv", "artifacts", "build-tests")
    return Job("firecracker", KVM, argv, needs, seconds=480, deadline=2400, has_tests=True)


def _pytest(places: Places, *files: str) -> list[str]:
    return [places.python, "-m", "pytest", "-c", "tests/pytest.ini", *events.PYTEST_OPTIONS, *files]


def pack(weights: dict[str, float], seconds_each: float) -> list[tuple[list[str], float]]:
    """Deals files to jobs: the heaviest file first, each to the job that has the least so far."""
    bins = [([], 0.0) for _ in range(max(1, math.ceil(sum(weights.values()) / seconds_each)))]
    for file in sorted(weights, key=lambda file: (-weights[file], file)):
        index = min(range(len(bins)), key=lambda i: bins[i][1])
        files, total = bins[index]
        bins[index] = ([*files, file], total + weights[file])
    return [(sorted(files), total) for files, total in bins if files]

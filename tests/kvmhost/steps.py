"""What runs in the machine, one after the other, in one boot."""

import json
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kvmhost import places
from kvmhost.host import HostError
from suite import cargo, events

_PYTHON = "/usr/bin/python3"
_LEAPBOX = f"{places.INSIDE_PAYLOAD}/bin/leapbox"
_TESTS = f"{places.INSIDE_PAYLOAD}/tests"
_AGAIN = [_PYTHON, f"{_TESTS}/kvmhost/inside/again.py"]
_DATA = f"{places.INSIDE_SCRATCH}/data"

ENVIRONMENT = {
    "CARGO_TARGET_DIR": f"{places.INSIDE_SCRATCH}/target",
    "LEAPBOX_ARTIFACTS_DIR": places.INSIDE_ARTIFACTS,
    "LEAPBOX_BINARY": _LEAPBOX,
    "LEAPBOX_CONFORMANCE_DRIVER": "firecracker",
    "LEAPBOX_DRIVER": "firecracker",
    "LEAPBOX_LAUNCHER": _LEAPBOX,
    # Everything in here is some ten times slower, and all of it should take minutes.
    "LEAPBOX_TEST_KILL_ROUNDS": "2",
    "LEAPBOX_TEST_PAUSES": "4",
    "LEAPBOX_TEST_REQUESTS": "60",
    "LEAPBOX_TEST_SLOWNESS": "4",
    "LEAPBOX_TEST_STORM_THREADS": "2",
    "PYTHONPATH": _TESTS,
}


@dataclass(frozen=True)
class Step:
    """A command, run as root in the machine's first namespaces."""

    name: str
    argv: list[str]
    # Seconds until it is ended and counts as failed.
    deadline: int
    environment: dict[str, str] = field(default_factory=lambda: dict(ENVIRONMENT))


def dumped(steps: list[Step]) -> str:
    """As `inside/runner.py` reads them."""
    return json.dumps([asdict(step) for step in steps], indent=1)


def in_lab(argv: list[str]) -> list[str]:
    """The command, in a lab (`tests/lab`) whose folder shares the artifacts' file system."""
    return [_PYTHON, "-m", "lab", "run", "--base", f"{places.INSIDE_SCRATCH}/lab", "--", *argv]


def pytest(arguments: list[str]) -> list[str]:
    """pytest in a lab, telling each test's end as an event."""
    options = ["-c", f"{_TESTS}/pytest.ini", *events.PYTEST_OPTIONS]
    return [*_AGAIN, "pytest", *in_lab([_PYTHON, "-m", "pytest", *options]), "++", *arguments]


def doctor() -> Step:
    """The product's own look at this host, which must find KVM, Firecracker and its jailer."""
    folder = f"--data-dir {_DATA}"
    script = f"{_LEAPBOX} setup {folder} && {_LEAPBOX} doctor {folder}"
    return Step("doctor", in_lab(["sh", "-c", script]), deadline=120)


def lab() -> Step:
    """The lab's own tests: this machine is a host like any other."""
    return Step("lab", pytest([f"{_TESTS}/selftest"]), deadline=180)


def conformance(executable: Path, brief: bool, deadline: int) -> Step:
    """The driver's conformance suite; `brief` leaves out what its tests are marked to be ignored for."""
    file = f"{places.INSIDE_CONFORMANCE}/{executable.name}"
    command = in_lab([_PYTHON, "-m", "suite.libtest", "--file", file, "--threads", "1", "--"])
    selection = [] if brief else ["--include-ignored"]
    return Step("conformance", [*_AGAIN, "libtest", *command, "++", *selection], deadline)


def e2e(arguments: str, deadline: int) -> Step:
    """The end-to-end tests with the official SDK; `arguments` are pytest's, as one writes them in a shell."""
    return Step("e2e", pytest([*shlex.split(arguments), f"{_TESTS}/e2e"]), deadline)


def conformance_executable(cargo_messages: Path) -> Path:
    """The conformance suite's executable, from what Cargo said when it built it."""
    for each in cargo.executables(cargo_messages):
        if each.package == "conformance":
            return each.file
    raise HostError(f"{cargo_messages} names no executable of the conformance suite: run `make build-tests`")

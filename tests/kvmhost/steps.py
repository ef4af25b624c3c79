"""What runs in the machine, one after the other, in one boot."""

import json
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kvmhost import places
from kvmhost.host import HostError

CONFORMANCE_PACKAGE = "leapbox-conformance"
_PYTHON = "/usr/bin/python3"
_LEAPBOX = f"{places.INSIDE_PAYLOAD}/bin/leapbox"
_TESTS = f"{places.INSIDE_PAYLOAD}/tests"
_AGAIN = [_PYTHON, f"{_TESTS}/kvmhost/inside/again.py"]
_DATA = f"{places.INSIDE_SCRATCH}/data"

ENVIRONMENT = {
    "CARGO_TARGET_DIR": f"{places.INSIDE_SCRATCH}/target",
    "LEAPBOX_ARTIFACTS_DIR": places.INSIDE_ARTIFACTS,
    "LEAPBOX_BINARY": _LEAPBOX,
    "LEAPBOX_CONFORMANCE_DIR": f"{places.INSIDE_SCRATCH}/conformance",
    "LEAPBOX_CONFORMANCE_DRIVER": "firecracker",
    "LEAPBOX_DRIVER": "firecracker",
    "LEAPBOX_LAUNCHER": _LEAPBOX,
    # Everything in here is some ten times slower, and all of it should take minutes.
    "LEAPBOX_TEST_KILL_ROUNDS": "2",
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


def pytest(name: str, arguments: list[str]) -> list[str]:
    """pytest in a lab, leaving a JUnit report among the step's results."""
    report = f"--junitxml={places.INSIDE_RESULTS}/{name}/junit.xml"
    command = in_lab([_PYTHON, "-m", "pytest", "-c", f"{_TESTS}/pytest.ini", report, *arguments])
    return [*_AGAIN, "pytest", *command]


def doctor() -> Step:
    """The product's own look at this host, which must find KVM, Firecracker and its jailer."""
    folder = f"--data-dir {_DATA}"
    script = f"{_LEAPBOX} setup {folder} && {_LEAPBOX} doctor {folder}"
    return Step("doctor", in_lab(["sh", "-c", script]), deadline=120)


def lab() -> Step:
    """The lab's own tests: this machine is a host like any other."""
    return Step("lab", pytest("lab", [f"{_TESTS}/selftest"]), deadline=180)


def conformance(executables: list[Path], deadline: int) -> list[Step]:
    """The driver's conformance suite, a step for each of its test executables."""
    steps = []
    for file in executables:
        command = in_lab([f"{places.INSIDE_CONFORMANCE}/{file.name}", "--test-threads", "1"])
        argv = [*_AGAIN, "libtest", *command]
        name = "conformance" if len(executables) == 1 else file.name.rsplit("-", 1)[0]
        steps.append(Step(name, argv, deadline))
    return steps


def e2e(arguments: str, deadline: int) -> Step:
    """The end-to-end tests with the official SDK; `arguments` are pytest's, as one writes them in a shell."""
    return Step("e2e", pytest("e2e", [f"{_TESTS}/e2e", *shlex.split(arguments)]), deadline)


def test_executables(cargo_messages: Path) -> list[Path]:
    """The test executables of the conformance crate, from `cargo test --no-run --message-format=json`."""
    found = []
    for line in cargo_messages.read_text().splitlines():
        message = json.loads(line)
        if message.get("executable") and "test" in message["target"]["kind"]:
            found.append(Path(message["executable"]))
    if not found:
        raise HostError(f"{cargo_messages} names no test executable")
    return found

"""The line that tells the runner how a test ended.

It is JSON behind a mark, on a line of its own among whatever else a job prints.
"""

import json
from dataclasses import asdict, dataclass

_MARK = "@@test "

# What makes pytest print events in place of its dots.
PYTEST_OPTIONS = ["-p", "suite.pytest_events", "-q", "-o", "console_output_style=classic"]

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
# It failed, and is tried once more by itself: only the KVM test host does that, because its emulation has faults.
FAILED_ONCE = "failed once"


@dataclass(frozen=True)
class TestEnded:
    """How one test ended."""

    # Keeps pytest from taking this for a test class.
    __test__ = False

    name: str
    outcome: str
    seconds: float
    # What it printed and why it failed; empty when it passed.
    log: str = ""
    # It failed before its own first line, in what it shares with others.
    in_setup: bool = False

    @property
    def fault(self) -> str:
        """What went wrong once: one broken set-up of a module is one fault, however many tests wanted it."""
        return self.name.partition("::")[0] if self.in_setup else self.name


def line(ended: TestEnded) -> str:
    """The event as a line, with the end of whatever partial line is before it."""
    return f"\n{_MARK}{json.dumps(asdict(ended))}\n"


def read(text: str) -> TestEnded | None:
    """The event in a line of a job's output, or None when the line is something else."""
    if not text.startswith(_MARK):
        return None
    try:
        return TestEnded(**json.loads(text.removeprefix(_MARK)))
    except (ValueError, TypeError):
        return None

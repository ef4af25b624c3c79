"""Watches a machine until its steps are done: passes on what they print, keeps time, and notices when it dies.

booting ──booted──► idle ──start──► in a step ──end──► idle … ──finished──► done
   └───────────────────┴── QEMU ends, heartbeats stop, or time is over ──► died, with a reason
"""

import json
import selectors
import sys
import time
from dataclasses import dataclass, field

from kvmhost.machine import CONSOLE, Machine
from kvmhost.places import RESULTS, RUN
from suite import events

# Four seconds on a quiet host; a busy one may be building beside it.
BOOT_SECONDS = 120
# The machine says that it is alive every five seconds.
SILENCE_SECONDS = 120
# What the runner in the machine may take after a step's deadline to end it and gather facts.
GRACE_SECONDS = 120
RESULTS_TAR = RUN / "results.tar"


@dataclass(frozen=True)
class Ended:
    """A step that ran to its end. 124 is the status of one that ran out of time."""

    name: str
    status: int
    seconds: float


@dataclass
class Outcome:
    """Everything the machine told."""

    boot_seconds: float | None = None
    ended: list[Ended] = field(default_factory=list)
    # The step that was running when the machine died.
    unfinished: str | None = None
    # Why there is nothing more; None when all steps ran.
    died: str | None = None
    # Every test that was told: name → how it ended, the last time that it ran.
    tests: dict[str, str] = field(default_factory=dict)
    # What went wrong once and was tried again: tests, and modules whose set-up failed.
    second_tries: set[str] = field(default_factory=set)


class Watch:
    """One machine's life."""

    def __init__(self, machine: Machine):
        self._machine = machine
        self._outcome = Outcome()
        self._started = self._heard = time.monotonic()
        self._deadline = self._started + BOOT_SECONDS
        self._waiting_for = "it to boot"
        self._finished = False
        self._partial = b""
        self._partial_output = b""

    def run(self) -> Outcome:
        """Until the end, whichever."""
        selector = selectors.DefaultSelector()
        with RESULTS_TAR.open("wb") as tar:
            handlers = {"output": self._take_output, "events": self._take_events, "results": tar.write}
            for port, channel in self._machine.channels.items():
                selector.register(channel, selectors.EVENT_READ, handlers[port])
            while selector.get_map() and not self._outcome.died:
                for key, _ in selector.select(timeout=1):
                    block = key.fileobj.recv(1 << 20)
                    key.data(block)
                    if not block:
                        selector.unregister(key.fileobj)
                self._check_time()
        self._conclude()
        return self._outcome

    def _take_output(self, block: bytes) -> None:
        sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
        *lines, self._partial_output = (self._partial_output + block).split(b"\n")
        for line in lines:
            if ended := events.read(line.decode(errors="replace")):
                self._outcome.tests[ended.name] = ended.outcome
                if ended.outcome == events.FAILED_ONCE:
                    self._outcome.second_tries.add(ended.fault)

    def _take_events(self, block: bytes) -> None:
        self._heard = time.monotonic()
        *lines, self._partial = (self._partial + block).split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, event: dict) -> None:
        now = time.monotonic()
        match event["event"]:
            case "booted":
                self._outcome.boot_seconds = round(now - self._started, 1)
                print(f"kvmhost: booted in {self._outcome.boot_seconds} s", flush=True)
            case "start":
                self._outcome.unfinished = event["step"]
                self._waiting_for = f"step {event['step']} to end"
                self._deadline = now + event["deadline"] + GRACE_SECONDS
                print(f"kvmhost: ── {event['step']} ──", flush=True)
            case "end":
                ended = Ended(event["step"], event["status"], event["seconds"])
                self._outcome.ended.append(ended)
                self._outcome.unfinished = None
                print(f"kvmhost: {ended.name} ended with {ended.status} after {ended.seconds:.0f} s", flush=True)
                self._deadline = now + GRACE_SECONDS
            case "finished":
                self._finished = True
                self._waiting_for = "it to power off"

    def _check_time(self) -> None:
        now = time.monotonic()
        if now > self._deadline:
            self._outcome.died = f"it was ended: waited too long for {self._waiting_for}"
        elif self._outcome.boot_seconds is not None and now - self._heard > SILENCE_SECONDS:
            self._outcome.died = f"it hangs: no sign of life for {SILENCE_SECONDS} s"

    def _conclude(self) -> None:
        status = self._machine.wait(0 if self._outcome.died else 10)
        self._machine.kill()
        if self._finished:
            self._outcome.died = None
        elif self._outcome.died is None:
            self._outcome.died = "its kernel panicked" if _panicked() else f"QEMU ended with status {status}"


def console_tail(lines: int = 40) -> str:
    """The end of the kernel's console."""
    file = RESULTS / CONSOLE
    text = file.read_text(errors="replace") if file.exists() else ""
    return "\n".join(text.splitlines()[-lines:])


def _panicked() -> bool:
    return "Kernel panic" in console_tail(400)

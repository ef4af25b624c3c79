"""One job: a command, what it needs, and its process while it runs.

wanted ──start()──► running ──its process ends──► ended, with a status, seconds and CPU seconds
                       └─────stop()─────────────►
"""

import os
import queue
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

# What still holds a job's output open when its process has ended gets this long.
_DRAIN_SECONDS = 10
# After SIGTERM a lab needs a moment to remove what it made.
GRACE_SECONDS = 30


@dataclass(frozen=True)
class Job:
    """A command that belongs to a part of the suite."""

    name: str
    part: str
    argv: list[str]
    # Names of jobs that must have passed before.
    needs: tuple[str, ...] = ()
    # Names of jobs that come first if they are run at all.
    after: tuple[str, ...] = ()
    # On the wall, on a quiet machine with two cores: what the order is made from.
    seconds: float = 30
    # How many cores it keeps busy.
    cores: float = 1.0
    # Ended and counted as failed after so many seconds.
    deadline: float = 1500
    # It runs tests. If it ends without an event of any test, it has failed, whatever its status.
    has_tests: bool = False
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """How a job's process ended."""

    status: int
    seconds: float
    # Of the process and everything below it, virtual machines included: the lab's PID 1 waits for them all.
    cpu_seconds: float
    timed_out: bool


class Running:
    """A started job. It puts each line of its output, and then its end, into a queue, beside itself."""

    def __init__(self, job: Job, log: Path, told: queue.Queue):
        self.job = job
        self.log = log
        self._told = told
        self._started = time.monotonic()
        self._timed_out: float | None = None
        log.parent.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            # When the runner dies, however it does, the job is asked to end. (Not one behind sudo: it forgets this.)
            ["setpriv", "--pdeathsig", "TERM", "--", *job.argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **job.environment},
            # Ctrl-C is for the runner to handle; the job's group is ended as a whole.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=self._wait, daemon=True).start()

    def _read(self) -> None:
        with self.log.open("w") as log:
            for line in self._process.stdout:
                log.write(line)
                log.flush()
                self._told.put((self, line.rstrip("\n")))

    def _wait(self) -> None:
        _, status, usage = os.wait4(self._process.pid, 0)
        seconds = time.monotonic() - self._started
        self._reader.join(_DRAIN_SECONDS)
        code = os.waitstatus_to_exitcode(status)
        self._told.put((self, Ended(code, seconds, usage.ru_utime + usage.ru_stime, self._timed_out is not None)))

    def check_time(self) -> None:
        """Ends it when its time is over, at first politely."""
        now = time.monotonic()
        if self._timed_out is None and now - self._started > self.job.deadline:
            self._timed_out = now
            self.stop(signal.SIGTERM)
        elif self._timed_out is not None and now - self._timed_out > GRACE_SECONDS:
            self.stop(signal.SIGKILL)

    def stop(self, number: int) -> None:
        """Signals the job's whole group."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return
        except PermissionError:
            # It was started through sudo.
            subprocess.run(["sudo", "-n", "kill", f"-{int(number)}", "--", f"-{self._process.pid}"])

"""Runs Rust test executables one after the other and prints an event as each of their tests ends.

`python3 -m suite.libtest --cargo FILE [--only PACKAGE] [--without PACKAGE] [-- ARGUMENTS…]` runs what Cargo has built
(`cargo.py`), `python3 -m suite.libtest --file EXECUTABLE …` a single one; the arguments are libtest's. Ends with 1 when
a test failed, and with 2 when an executable ended without having told of all its tests.

Rust's harness tells times and outcomes as JSON, which it calls unstable: stable toolchains want `RUSTC_BOOTSTRAP` in
the environment for it. Its plain lines tell no times, and put the logs of all failures at the end.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from suite import cargo, events

# Ignored tests are not told: who leaves them out runs them elsewhere (`tests/README.md`).
_OUTCOMES = {"ok": events.PASSED, "failed": events.FAILED}


def main() -> int:
    parser = argparse.ArgumentParser(prog="suite.libtest", description=__doc__)
    parser.add_argument("--cargo", type=Path, metavar="FILE", help="Cargo's messages: run what it has built")
    parser.add_argument("--only", action="append", metavar="PACKAGE", help="of what Cargo has built")
    parser.add_argument("--without", action="append", default=[], metavar="PACKAGE")
    parser.add_argument("--file", type=Path, metavar="EXECUTABLE", help="run this one, where we are")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="for libtest, behind --")
    given = parser.parse_args()
    statuses = [run(each, given.threads, given.arguments) for each in _wanted(given)]
    if not statuses:
        parser.error("there is no such executable")
    return max(statuses)


def _wanted(given) -> list[cargo.Executable]:
    if given.file:
        target = given.file.name.rpartition("-")[0] or given.file.name
        return [cargo.Executable(target, target, given.file, Path.cwd())]
    found = [each for each in cargo.executables(given.cargo) if not given.only or each.package in given.only]
    return [each for each in found if each.package not in given.without]


def run(executable: cargo.Executable, threads: int, arguments: list[str]) -> int:
    """Runs one executable; returns its status as the module says."""
    argv = [str(executable.file), "-Z", "unstable-options", "--format", "json", "--report-time"]
    process = subprocess.Popen(
        [*argv, f"--test-threads={threads}", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd=executable.folder,
        env={**os.environ, "RUSTC_BOOTSTRAP": "1", "CARGO_MANIFEST_DIR": str(executable.folder)},
    )
    running: set[str] = set()
    concluded = False
    for line in process.stdout:
        message = _message(line)
        if message is None:
            print(line, end="", flush=True)
        elif message["type"] == "suite":
            concluded |= message["event"] in ("ok", "failed")
        else:
            _take(executable.name, message, running)
    status = process.wait()
    if concluded:
        return 0 if status == 0 else 1
    # It crashed, or was ended by a signal: each test that was running may be the reason.
    for test in sorted(running) or ["(the executable)"]:
        _tell(f"{executable.name}::{test}", events.FAILED, 0.0, f"{executable.file} ended with {status} while it ran")
    return 2


def _message(line: str) -> dict | None:
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if found.get("type") in ("suite", "test") else None


def _take(name: str, message: dict, running: set[str]) -> None:
    test = message["name"]
    if message["event"] == "started":
        running.add(test)
    elif outcome := _OUTCOMES.get(message["event"]):
        running.discard(test)
        if outcome == events.FAILED and os.environ.get("LEAPBOX_SUITE_TRIES_LEFT"):
            outcome = events.FAILED_ONCE
        log = "\n".join(filter(None, (message.get("stdout"), message.get("message"))))
        _tell(f"{name}::{test}", outcome, message.get("exec_time", 0.0), log if outcome != events.PASSED else "")


def _tell(name: str, outcome: str, seconds: float, log: str) -> None:
    sys.stdout.write(events.line(events.TestEnded(name, outcome, round(seconds, 2), log)))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

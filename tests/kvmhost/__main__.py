"""`python -m kvmhost run -- COMMAND…` and `python -m kvmhost suite`: see the package.

`run` runs one command as root in the machine and ends with its status; in a lab, with `--lab`. `suite` runs what
`make test-firecracker` wants: doctor, conformance, end-to-end tests.
"""

import argparse
import fcntl
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from kvmhost import artifacts, base, disks, initramfs, places, report, steps
from kvmhost.host import HostError, emptied
from kvmhost.machine import CONSOLE, Machine
from kvmhost.watch import Outcome, Watch, console_tail
from suite import events

_CONFORMANCE_DEADLINE = 1800
_E2E_DEADLINE = 1500
_EVERY_E2E = "-m production_driver"
_BRIEF_E2E = "-m 'production_driver and not thorough'"


def main() -> int:
    arguments = _parser().parse_args()
    if os.geteuid() != 0:
        print("kvmhost: this needs root: it makes file systems with root's files in them", file=sys.stderr)
        return 2
    # Ended from outside, it leaves as Ctrl-C makes it leave.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    places.HOME.mkdir(parents=True, exist_ok=True)
    with (places.HOME / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("kvmhost: waiting for another run to end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return _run(*arguments.plan(arguments))
        except HostError as error:
            print(f"kvmhost: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            # The machine ends with this process; its disks are of no use to anybody.
            shutil.rmtree(places.RUN, ignore_errors=True)
            return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kvmhost", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="run one command in the machine")
    run.add_argument("--name", default="command", help="of the step and its folder of results")
    run.add_argument("--deadline", type=int, default=600, metavar="SECONDS")
    run.add_argument("--lab", action="store_true", help="in a lab of its own (tests/lab)")
    run.add_argument("command", nargs=argparse.REMAINDER)
    run.set_defaults(plan=_one_command)
    suite = verbs.add_parser("suite", help="everything `make test-firecracker` wants")
    suite.add_argument(
        "--cargo", type=Path, required=True, metavar="FILE", help="Cargo's messages, for the conformance suite"
    )
    suite.add_argument("--e2e", default=_EVERY_E2E, metavar="ARGS", help="arguments for pytest")
    suite.add_argument("--brief", action="store_true", help="only what touches Firecracker's own code")
    suite.add_argument(
        "--only", metavar="STEP,…", help="of doctor, lab (its own tests, left out by default), conformance, e2e"
    )
    suite.set_defaults(plan=_suite)
    return parser


def _one_command(arguments) -> tuple[list[steps.Step], list[Path]]:
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise HostError("no command given")
    argv = steps.in_lab(command) if arguments.lab else command
    return [steps.Step(arguments.name, argv, arguments.deadline)], []


def _suite(arguments) -> tuple[list[steps.Step], list[Path]]:
    executable = steps.conformance_executable(arguments.cargo)
    brief = arguments.brief
    plan = {
        "doctor": steps.doctor(),
        "lab": steps.lab(),
        "conformance": steps.conformance(executable, brief, _CONFORMANCE_DEADLINE),
        "e2e": steps.e2e(_BRIEF_E2E if brief else arguments.e2e, _E2E_DEADLINE),
    }
    wanted = arguments.only.split(",") if arguments.only else [name for name in plan if name != "lab"]
    if unknown := set(wanted) - set(plan):
        raise HostError(f"there is no step {', '.join(sorted(unknown))}; there are {', '.join(plan)}")
    return [plan[name] for name in plan if name in wanted], [executable]


def _run(plan: list[steps.Step], executables: list[Path]) -> int:
    started = time.monotonic()
    emptied(places.RUN)
    _put_results_away()
    outcome = _boot(plan, executables)
    if outcome.died:
        # QEMU's emulated SVM may lose the machine, whatever runs in it. Twice in a row is no accident.
        ended = outcome.ended
        rest = [step for step in plan if step.name not in {step.name for step in ended}] or plan[-1:]
        print(f"\nkvmhost: THE MACHINE DIED: {outcome.died}; once more from step {rest[0].name}. Its console ended:")
        print(console_tail(), flush=True)
        (places.RESULTS / CONSOLE).rename(places.RESULTS / f"panicked-{CONSOLE}")
        emptied(places.RUN)
        before, outcome = outcome, _boot(rest, executables)
        outcome.ended = ended + outcome.ended
        # A test that had failed twice is not given a third try.
        failed = {name: how for name, how in before.tests.items() if how == events.FAILED}
        outcome.tests = {**before.tests, **outcome.tests, **failed}
        outcome.second_tries |= before.second_tries
    emptied(places.RUN)
    return report.conclude(plan, outcome, time.monotonic() - started)


def _boot(plan: list[steps.Step], executables: list[Path]) -> Outcome:
    """One machine's life, and its results unpacked."""
    started = time.monotonic()
    in_use = artifacts.current()
    made = base.ensure(in_use)
    images = {"base": made.root, "payload": places.RUN / "payload.erofs", "scratch": places.RUN / "scratch.ext4"}
    disks.payload(images["payload"], executables, steps.dumped(plan))
    disks.scratch(images["scratch"], in_use)
    initrd = places.RUN / "initrd"
    initramfs.pack(in_use, made.busybox, initrd)
    print(f"kvmhost: starting the machine; {time.monotonic() - started:.1f} s were needed to prepare it", flush=True)
    outcome = Watch(Machine(in_use.kernel, initrd, images)).run()
    report.unpack()
    return outcome


def _put_results_away() -> None:
    """Keeps the results of the run before this one beside its own."""
    if places.RESULTS.exists():
        shutil.rmtree(places.PREVIOUS_RESULTS, ignore_errors=True)
        places.RESULTS.rename(places.PREVIOUS_RESULTS)
    places.RESULTS.mkdir()


if __name__ == "__main__":
    sys.exit(main())

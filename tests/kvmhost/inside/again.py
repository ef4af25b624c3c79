"""Runs tests, and those that failed once more, by themselves: `again.py pytest|libtest COMMAND… ++ SELECTION…`.

The command makes its own lab, so that the second try has one of its own, too. Which tests failed is read from the
events that the command prints (`suite/events.py`); all of its output is passed on.

QEMU's emulated SVM now and then loses a guest: it ends in a triple fault without a word, or takes page faults without
end. It has lost the machine itself, too, with nothing of ours near. A fault of the product fails twice. How many tests
needed their second try is counted outside (`kvmhost/report.py`), and too many of them are a failure.
"""

import os
import subprocess
import sys

from suite import events


def main() -> int:
    kind, *words = sys.argv[1:]
    at = words.index("++")
    command, selection = words[:at], words[at + 1 :]
    status, first = _run([*command, *selection], {"LEAPBOX_SUITE_TRIES_LEFT": "1"})
    failed = [name for name, outcome in first.items() if outcome == events.FAILED_ONCE]
    # 1 is "tests failed" for both; whatever else ended the run, tests behind it may not have run.
    if status != 1 or not failed:
        return status
    print(f"\nagain: {len(failed)} failed and are tried once more: {', '.join(failed)}\n", flush=True)
    _keep_the_first_tries_logs()
    status, second = _run([*command, *_selecting(kind, failed)], {})
    if second.keys() != set(failed):
        print(f"again: the second try told of {sorted(second)} and not of {sorted(failed)}", flush=True)
        return status or 1
    # What is not tried again, such as something left behind by a module's tests, has failed.
    return status or int(events.FAILED in first.values())


def _selecting(kind: str, names: list[str]) -> list[str]:
    match kind:
        case "pytest":
            # Tests are named from the folder of pytest.ini.
            return [f"{os.environ['PYTHONPATH']}/{name}" for name in names]
        case "libtest":
            # Of `executable::module::test`, the harness knows the last two.
            return ["--include-ignored", "--exact", *(name.partition("::")[2] for name in names)]
    raise SystemExit(f"again: {kind} is neither libtest nor pytest")


def _keep_the_first_tries_logs() -> None:
    """The runner gathers them when it sees this file: only they tell the emulation's faults from ours."""
    with open(f"{os.environ['KVMHOST_RESULTS']}/second-try", "w"):
        os.sync()


def _run(command: list[str], environment: dict[str, str]) -> tuple[int, dict[str, str]]:
    """Runs the command; returns its status, and how the tests ended that it told of."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, errors="replace", env={**os.environ, **environment}
    )
    told = {}
    for line in process.stdout:
        print(line, end="", flush=True)
        if ended := events.read(line):
            told[ended.name] = ended.outcome
    return process.wait(), told


if __name__ == "__main__":
    sys.exit(main())

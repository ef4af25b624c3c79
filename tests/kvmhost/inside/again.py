"""Runs tests, and those that failed once more, alone: `again.py libtest|pytest COMMAND…`.

The command makes its own lab, so that the second try has one of its own, too.

QEMU's emulated SVM now and then loses a guest: it ends in a triple fault without a word, or takes page faults without
end. It has lost the machine itself, too, with nothing of ours near. A fault of the product fails twice; what passed at
its second try is said aloud.
"""

import os
import re
import subprocess
import sys

_CACHE = "/scratch/pytest-cache"
_LIBTEST_FAILURE = re.compile(r"^test (\S+) \.\.\. FAILED$|^    (\S+::\S+)$", re.MULTILINE)


def main() -> int:
    kind, *command = sys.argv[1:]
    match kind:
        case "pytest":
            return _pytest(command)
        case "libtest":
            return _libtest(command)
        case _:
            print(f"again: {kind} is neither libtest nor pytest", file=sys.stderr)
            return 2


def _pytest(command: list[str]) -> int:
    # Of pytest.ini's options, but for the one that forgets what failed.
    keep = ["-o", "addopts=-ra --strict-markers --strict-config", "-o", f"cache_dir={_CACHE}"]
    status = subprocess.run([*command, *keep]).returncode
    # 1 is "some tests failed"; everything else is no test's verdict.
    if status != 1:
        return status
    _announce("the tests that failed")
    report = [part.replace("junit.xml", "junit-again.xml") for part in command]
    return subprocess.run([*report, *keep, "--last-failed"]).returncode


def _libtest(command: list[str]) -> int:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    failed = set()
    for line in process.stdout:
        print(line, end="", flush=True)
        failed |= {name for pair in _LIBTEST_FAILURE.findall(line) for name in pair if name}
    status = process.wait()
    if status == 0 or not failed:
        return status
    _announce(", ".join(sorted(failed)))
    folder = {"LEAPBOX_CONFORMANCE_DIR": os.environ["LEAPBOX_CONFORMANCE_DIR"] + "-again"}
    return subprocess.run([*command, "--exact", *sorted(failed)], env={**os.environ, **folder}).returncode


def _announce(what: str) -> None:
    print(f"\nagain: FAILED ONCE, TRIED ONCE MORE: {what}\n", flush=True)
    os.sync()


if __name__ == "__main__":
    sys.exit(main())

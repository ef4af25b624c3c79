"""`python -m lab run [--base DIR] -- COMMAND…`: runs a command in a lab of its own.

`DIR` (default: `target/lab`) gets one folder per run; after a failed run its logs are kept in `DIR/failures`.
"""

import argparse
import os
import sys
from pathlib import Path

from lab.world import TESTS_DIR, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="lab", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("run", help="run a command in a lab of its own")
    verb.add_argument("--base", type=Path, default=TESTS_DIR.parent / "target" / "lab")
    verb.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        parser.error("no command given")
    if os.geteuid() != 0:
        parser.error("a lab needs root: it makes namespaces and virtual machines")
    return run(command, arguments.base.resolve())


if __name__ == "__main__":
    sys.exit(main())

"""The catalogue of cases (tests/CASES.md) and the tests say the same: checked on the sources.

A test that carries a case's number in its name is listed at that case, and what is listed exists. `cases.py` prints
every violation and ends with status 1 if there is one.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = "tests/CASES.md"
NOT_BUILT = "not built yet"
# What a fuzz target has in the place of a test: it has no function with a name.
FUZZ = "make fuzz"
# Where our own tests are. Not the whole tree: target/ has the sources of others.
FOLDERS = ("bin", "crates", "tests")
# An attribute that ends in `test`, whatever other attributes and comments follow it, and the function's name.
RUST_TEST = re.compile(
    r"""^[ \t]*\#\[(?:\w+::)*test\b[^\]]*\]\s*
        (?:\#\[[^\]]*\]\s*|//[^\n]*\n\s*)*
        (?:pub(?:\([^)]*\))?\s+)?(?:async\s+)?fn\s+(\w+)""",
    re.MULTILINE | re.VERBOSE,
)
# pytest collects these; a parametrised one is one function.
PYTHON_TEST = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)
CARRIED = re.compile(r"(?:^|_)case_(\d+)(?=_|$)")

# A file, by its path from the root, and the name of a function in it.
Test = tuple[str, str]


@dataclass
class Case:
    """One row of the catalogue."""

    number: int
    tests: set[Test]
    # Files that are listed with `make fuzz`.
    targets: set[str]
    says_not_built: bool


def tests_in_tree() -> set[Test]:
    found = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            is_python = path.suffix == ".py" and path.name.startswith("test_")
            if is_python or path.suffix == ".rs":
                pattern = PYTHON_TEST if is_python else RUST_TEST
                name = path.relative_to(ROOT).as_posix()
                found |= {(name, function) for function in pattern.findall(path.read_text())}
    return found


def read_row(line: str) -> Case | str:
    """A case, or what is wrong with its row."""
    cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
    if len(cells) != 4 or not cells[0].isdecimal():
        return "is no row of a number and three more cells"
    case = Case(int(cells[0]), set(), set(), NOT_BUILT in cells[3])
    if case.says_not_built:
        cells[3] = cells[3].replace(NOT_BUILT, "")
    file = None
    for item in filter(None, cells[3].split("<br>")):
        quoted = re.fullmatch(r"`([^`]+)`(:?)", item.strip())
        if not quoted:
            return f"lists {item!r}, which is neither a `file`: nor a `test`"
        name, is_file = quoted.groups()
        if is_file:
            file = name
        elif file is None:
            return f"lists {name} without its file"
        elif name == FUZZ:
            case.targets.add(file)
        else:
            case.tests.add((file, name))
    return case


def read_catalogue() -> tuple[list[Case], list[str]]:
    cases, wrong = [], []
    for number, line in enumerate((ROOT / CATALOGUE).read_text().splitlines(), start=1):
        if not line.startswith("|") or re.match(r"\| number \||\|-", line):
            continue
        row = read_row(line)
        if isinstance(row, str):
            wrong.append(f"line {number} of {CATALOGUE} {row}")
        else:
            cases.append(row)
    return cases, wrong


def wrong_numbers(numbers: list[int]) -> Iterator[str]:
    for number in sorted(set(numbers)):
        if numbers.count(number) > 1:
            yield f"case {number} is there {numbers.count(number)} times"
    for number in sorted(set(range(1, max(numbers, default=0) + 1)) - set(numbers)):
        yield f"case {number} is missing: numbers go from 1 without gaps"


def wrong_rows(cases: list[Case], tests: set[Test]) -> Iterator[str]:
    """What is listed and does not exist, and cases without a test."""
    for case in cases:
        missing = sorted(case.tests - tests)
        for file, function in missing:
            why = "has no such test" if (ROOT / file).is_file() else "does not exist"
            yield f"case {case.number} lists {function}, and {file} {why}"
        for file in sorted(case.targets):
            if not (ROOT / file).is_file():
                yield f"case {case.number} lists the fuzz target {file}, which does not exist"
        if case.says_not_built and (case.tests or case.targets):
            yield f"case {case.number} says `{NOT_BUILT}` and lists tests"
        if not case.says_not_built and len(missing) == len(case.tests):
            yield f"case {case.number} has no test, and does not say `{NOT_BUILT}`"


def wrong_names(cases: list[Case], tests: set[Test]) -> Iterator[str]:
    """Tests whose names carry the number of a case that does not list them."""
    known = {case.number: case for case in cases}
    for file, function in sorted(tests):
        for number in map(int, CARRIED.findall(function)):
            case = known.get(number)
            if case is None:
                yield f"{function} in {file} carries the number of case {number}, which is not in {CATALOGUE}"
            elif case.says_not_built:
                yield f"case {number} says `{NOT_BUILT}`, and {file} has {function}"
            elif (file, function) not in case.tests:
                yield f"{function} in {file} is not listed at case {number}"


def main() -> int:
    cases, found = read_catalogue()
    tests = tests_in_tree()
    found += wrong_numbers([case.number for case in cases])
    found += wrong_rows(cases, tests)
    found += wrong_names(cases, tests)
    for line in found:
        print(f"case: {line}", file=sys.stderr)
    listed = {test for case in cases for test in case.tests}
    not_built = sum(case.says_not_built for case in cases)
    print(f"cases: {len(cases)} cases, {len(listed)} tests, {not_built} not built yet, {len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

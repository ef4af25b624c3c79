"""Errors keep their causes (CONTRIBUTING.md, "The code"): checked on the sources of the product.

- A log line shows an error with its causes: an error's text does not repeat its source.
- `map_err` does not drop an error unseen: either it becomes the source of the new one, or its type is named.
- The error of a `Result` is a type of its own and not a `String`, which has no causes.

`errors.py` prints every violation and ends with status 1 if there is one.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("bin", "crates")
# Where the rules do not hold yet: these lists only get shorter.
NOT_YET_LOGGED = ()
NOT_YET_KEPT = ()

TEST_CODE = re.compile(r"/(tests|examples)/|/tests\.rs$")
COMMENT = re.compile(r"^[ \t]*//[^\n]*", re.MULTILINE)
# A module of tests stands at the end of its file.
TESTS_IN_FILE = re.compile(r"^#\[cfg\(test\)\]\nmod \w+ \{.*", re.MULTILINE | re.DOTALL)

STRING = r'"(?:[^"\\]|\\.)*"'
LOG_CALL = re.compile(r"\btracing::\w+!\(|\blog::line\(")
# What errors are called in this code.
ERROR = r"(?:error|err|e|source|errno)"
CHAIN_CALL = re.compile(r"\bchain\((?:[^()]|\([^()]*\))*\)")
# As an argument: `%error`, `?error`, `field = %error`, `&error`, `error`.
BARE = re.compile(rf"(?:^|[(,=])\s*[%?&*]*{ERROR}\b(?!\s*[.=(])")
# A field with an error's name has the causes, whatever the variable is called.
FIELD = re.compile(r"(?:^|[(,])\s*(?:error|err|source|errno)\s*=(?!\s*%chain\b)")
# In the text of a message: `{error}`.
IN_MESSAGE = re.compile(rf"\{{{ERROR}(?::[^}}]*)?\}}")
AS_DYN = re.compile(r"\bas\s+&\s*dyn\s+(?:std::error::)?Error\b")
SAY_CHAIN = "write `error = %chain(&error)` (leapbox_errors::chain), which tells its causes as well"

DROPPED = re.compile(r"\bmap_err\(\s*\|\s*_\s*\|")
SAY_TYPE = "keep it as the source; or, if it says nothing (a closed channel, a time-out), name its type: `|_: Elapsed|`"
RESULT = re.compile(r"\bResult<")


def product_code(text: str) -> str:
    """The text of a Rust file without comments and its own tests; lines keep their numbers."""
    return COMMENT.sub("", TESTS_IN_FILE.sub("", text))


def line_of(text: str, found: re.Match[str]) -> int:
    return text.count("\n", 0, found.start()) + 1


def closing(text: str, start: int) -> int:
    """Where the parenthesis that opens before `start` is closed; those in strings do not count."""
    depth = 1
    for found in re.compile(rf"{STRING}|[()]", re.DOTALL).finditer(text, start):
        depth += {"(": 1, ")": -1}.get(found.group(), 0)
        if depth == 0:
            return found.start()
    return len(text)


def shows_error_alone(call: str) -> bool:
    """Whether the arguments of a log call show an error without its causes."""
    fields = CHAIN_CALL.sub("chain", re.sub(STRING, '""', call, flags=re.DOTALL))
    return bool(IN_MESSAGE.search(call) or any(shape.search(fields) for shape in (BARE, FIELD, AS_DYN)))


def logs_without_causes(text: str) -> Iterator[tuple[int, str]]:
    for found in LOG_CALL.finditer(text):
        if shows_error_alone(text[found.end() : closing(text, found.end())]):
            yield line_of(text, found), f"an error is logged without its causes: {SAY_CHAIN}"


def is_text_error(result: str) -> bool:
    """Whether `result`, all that follows `Result<`, begins with two types of which the second is `String`."""
    depth, second = 0, None
    for at, character in enumerate(result):
        if character in "<([":
            depth += 1
        elif character in ">)]" and result[at - 1] != "-":
            if depth == 0:
                return second is not None and result[second:at].strip() == "String"
            depth -= 1
        elif character == "," and depth == 0:
            second = at + 1
    return False


def lost_causes(text: str) -> Iterator[tuple[int, str]]:
    for found in DROPPED.finditer(text):
        yield line_of(text, found), f"an error is dropped unseen: {SAY_TYPE}"
    for found in RESULT.finditer(text):
        if is_text_error(text[found.end() :]):
            yield line_of(text, found), "the error of a Result is a String: make it a type, which can have a source"


def violations(path: str, text: str) -> Iterator[str]:
    code = product_code(text)
    found = []
    if not path.startswith(NOT_YET_LOGGED):
        found += logs_without_causes(code)
    if not path.startswith(NOT_YET_KEPT):
        found += lost_causes(code)
    for line, wrong in sorted(found):
        yield f"{path}:{line}: {wrong}"


def product_files() -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.rs")):
            if not TEST_CODE.search(path.as_posix().removeprefix(ROOT.as_posix())):
                yield path


def main() -> int:
    files = list(product_files())
    found = [line for path in files for line in violations(path.relative_to(ROOT).as_posix(), path.read_text())]
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    print(f"errors: {len(files)} files, {len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""What tests and demo do with sandboxes, over the official SDK."""

import json
import math
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx

from lab.sdk import Leap0Client, Leap0NotFoundError
from lab.waiting import patience, wait_until

GUEST_DIR = Path(__file__).resolve().parents[1] / "guest"
# Seconds that the API gives a command if the request does not say, and that the answer has beyond a command's own time:
# as long as the SDK waits for any answer.
_COMMAND_S, _ANSWER_S = 30, 300


def sh(sandbox, command: str, timeout: float = _COMMAND_S, **options) -> str:
    """Runs a command that must succeed; returns its stdout. Its time-out is a deadline, which `patience` stretches."""
    seconds = math.ceil(patience(timeout))
    options = {"timeout": seconds, "http_timeout": seconds + _ANSWER_S, **options}
    result = sandbox.process.execute(command=command, **options)
    assert result.exit_code == 0, f"{command!r} ended with {result.exit_code}: {result.stdout}{result.stderr}"
    return result.stdout


def state_of(client: Leap0Client, sandbox_id: str) -> str:
    """Its state, or "unknown" when the API does not know it (any more)."""
    try:
        state = client.sandboxes.get(sandbox_id).state
        return getattr(state, "value", state)
    except Leap0NotFoundError:
        return "unknown"


def leave_marks(sandbox, mark: str) -> None:
    """Puts a word into a sandbox's memory, into a process of it, and onto its disk."""
    process = "setsid sleep 86400 >/dev/null 2>&1 </dev/null & echo $! >/dev/shm/pid"
    sh(sandbox, f"echo {mark} >/dev/shm/mark; echo {mark} >~/mark; sync ~/mark; MARK={mark} {process}")


def marks(sandbox) -> dict[str, str]:
    """What of `leave_marks` is there: the word in its memory, its process and on its disk; "" is nothing."""
    look = (
        "echo memory=$(cat /dev/shm/mark); echo disk=$(cat ~/mark); "
        "echo process=$(tr '\\0' '\\n' </proc/$(cat /dev/shm/pid || echo none)/environ | sed -n s/^MARK=//p)"
    )
    return dict(line.split("=", 1) for line in sh(sandbox, f"( {look} ) 2>/dev/null").splitlines())


def all_marks(mark: str) -> dict[str, str]:
    """What `marks` tells of a sandbox that has lost nothing."""
    return {"memory": mark, "disk": mark, "process": mark}


def start_app(sandbox, client: httpx.Client, port: int = 8000, address: str = "127.0.0.1") -> str:
    """Starts the small web application in a sandbox; returns its base URL once it answers through the gateway."""
    sandbox.filesystem.write_file(path="/tmp/app.py", content=(GUEST_DIR / "app.py").read_text())
    sh(sandbox, f"setsid python3 /tmp/app.py {port} {address} >/tmp/app.log 2>&1 </dev/null &")
    url = sandbox.invoke_url("/", port=port).rstrip("/")

    def answers() -> bool:
        response = client.get(f"{url}/")
        assert response.status_code == 200, f"{response.status_code} {response.text}"
        return True

    wait_until(f"the app in {sandbox.id} answers on port {port}", answers, timeout=60)
    return url


def probe(sandbox, *targets: str) -> dict[str, str]:
    """Tries TCP connections from inside a sandbox, as its root: target → "open" or the error."""
    sandbox.filesystem.write_file(path="/tmp/probe.py", content=(GUEST_DIR / "probe.py").read_text())
    return json.loads(sh(sandbox, f"sudo python3 /tmp/probe.py {shlex.join(targets)}", timeout=120))


def vmm_pid(data_dir: Path, sandbox_id: str) -> int:
    """The process id of a sandbox's VMM."""
    return machine_record(data_dir, sandbox_id)["pid"]


def machine_record(data_dir: Path, sandbox_id: str) -> dict:
    """What the server's database says of a sandbox's VMM: `driver`, `name`, `pid`, `uid`, `shape` and more."""
    for database in data_dir.rglob("*.db"):
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            found = next(filter(None, map(_record_in, _values_of(connection, sandbox_id))), None)
            if found:
                return found
    raise AssertionError(f"no machine record of {sandbox_id} below {data_dir}")


def _values_of(connection: sqlite3.Connection, sandbox_id: str):
    tables = [row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")]
    for table in tables:
        for row in connection.execute(f'select * from "{table}"'):
            if sandbox_id in row:
                yield from row


def _record_in(value: object) -> dict | None:
    """The machine record, however deep it stands in a column's JSON."""
    if isinstance(value, (str, bytes)) and value[:1] in ("{", b"{"):
        value = json.loads(value)
    if not isinstance(value, dict):
        return None
    return value if isinstance(value.get("pid"), int) else next(filter(None, map(_record_in, value.values())), None)

"""What a server has logged. The servers under test write JSON, a line for each thing they tell.

A test asks for events by the name in the line's field `event`, which does not change, and for the fields beside it. It
does not read the message, which is for people.
"""

import json
from collections.abc import Callable
from typing import Any

from lab.server import Server

Event = dict[str, Any]


def events_since(server: Server) -> Callable[..., list[Event]]:
    """Call it before something happens; what it returns lists the events of the given names since then, in order."""
    read = lines_since(server)

    def found(*names: str) -> list[Event]:
        return [line for line in map(_parsed, read()) if line.get("event") in names]

    return found


def lines_since(server: Server) -> Callable[[], list[str]]:
    """The same for every line as it is written: for what must be in none of them."""
    before = server.log.stat().st_size if server.log.exists() else 0
    return lambda: server.log.read_bytes()[before:].decode(errors="replace").splitlines()


def _parsed(line: str) -> Event:
    try:
        return json.loads(line)
    except ValueError:
        # A panic, or the end of a line that is still being written.
        return {}

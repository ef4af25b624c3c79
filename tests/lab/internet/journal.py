"""What the fake internet saw: a JSON line per event, complete when its answer leaves."""

import json
from pathlib import Path


class Journal:
    """Two files in the run's folder; written from the event loop only."""

    def __init__(self, run_dir: Path):
        self._requests = (run_dir / "internet-requests.jsonl").open("a", buffering=1)
        self._questions = (run_dir / "internet-questions.jsonl").open("a", buffering=1)

    def request(self, **seen: object) -> None:
        """A request, or whatever else a server was told."""
        self._requests.write(json.dumps(seen) + "\n")

    def question(self, **seen: object) -> None:
        """A question that a name server got."""
        self._questions.write(json.dumps(seen) + "\n")

"""A process that must not notice when its sandbox is paused: it counts, writes, serves, and keeps its books in memory.

`counter.py PORT FOLDER`, beside app.py, whose paths it serves too (WebSocket echo among them).

    GET /status   {"count", "written", "clock": {...}}: the count in memory and the last one written to FOLDER/count
    GET /verify   every line of FOLDER/count and every file it has written, against its memory; [] if nothing is wrong
"""

import hashlib
import json
import os
import sys
import threading
import time
from pathlib import Path

from app import App, Server

TICK_S = 0.02
FILES = 48
FILE_BYTES = 64 * 1024


class Books:
    """What it has done, in memory: the count, and the hash of every file."""

    def __init__(self, folder):
        self.folder = folder
        self.lock = threading.Lock()
        self.count = 0
        self.hashes = {}
        self.rounds = 0
        self.backwards = 0
        self.last = time.monotonic()

    def count_for_ever(self):
        with (self.folder / "count").open("w", buffering=1) as file:
            while True:
                with self.lock:
                    self.count += 1
                    file.write(f"{self.count}\n")
                now = time.monotonic()
                self.backwards += now < self.last
                self.last = now
                time.sleep(TICK_S)

    def write_for_ever(self):
        """Write load: files of random bytes, each replaced again and again, some of them synced."""
        while True:
            name = str(self.rounds % FILES)
            content = os.urandom(FILE_BYTES)
            with self.lock:
                with (self.folder / name).open("wb") as file:
                    file.write(content)
                    if self.rounds % 16 == 0:
                        os.fsync(file.fileno())
                self.hashes[name] = hashlib.sha256(content).hexdigest()
                self.rounds += 1
            time.sleep(TICK_S)

    def status(self):
        with self.lock:
            written = (self.folder / "count").read_text().rsplit("\n", 2)[-2]
            clock = {"wall": time.time(), "monotonic": time.monotonic(), "backwards": self.backwards}
            return {"count": self.count, "written": int(written), "rounds": self.rounds, "clock": clock}

    def faults(self):
        """Everything that is not as it was left."""
        with self.lock:
            lines = (self.folder / "count").read_text().split("\n")
            found = (
                [] if lines == [*map(str, range(1, self.count + 1)), ""] else ["the file's counts are not 1, 2, 3 …"]
            )
            for name, wanted in self.hashes.items():
                if hashlib.sha256((self.folder / name).read_bytes()).hexdigest() != wanted:
                    found.append(f"file {name} has changed")
            return found


class Counter(App):
    books: Books

    def do_GET(self):
        if self.path == "/status":
            self.answer(json.dumps(self.books.status()).encode())
        elif self.path == "/verify":
            self.answer(json.dumps(self.books.faults()).encode())
        else:
            super().do_GET()


if __name__ == "__main__":
    Counter.books = Books(Path(sys.argv[2]))
    Counter.books.folder.mkdir()
    for work in (Counter.books.count_for_ever, Counter.books.write_for_ever):
        threading.Thread(target=work, daemon=True).start()
    Server(("127.0.0.1", int(sys.argv[1])), Counter).serve_forever()

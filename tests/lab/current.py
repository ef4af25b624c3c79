"""The lab a test runs in: its folder, and a look at what the fake internet saw."""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from lab import addresses
from lab.waiting import patience, wait_until

# A port that nothing else uses: a packet to it from the host itself ends a capture.
_MARKER_PORT = 61997
_MARKER = f"(udp dst port {_MARKER_PORT} and dst host {addresses.INTERNET_UPLINK})"
# The kernel keeps room for whole packets in its buffer (KiB): the heads are enough, and thousands of them fit then.
_TCPDUMP = ("tcpdump", "-i", "internet0", "-Z", "root", "--immediate-mode", "-U", "-s", "512", "-B", "8192")


@dataclass
class Capture:
    """Packets on the link between host and internet, as tcpdump prints them; filled when the capture ends."""

    packets: list[str] = field(default_factory=list)
    # What the kernel could not keep for tcpdump. With one of them, nothing can be said of what was not seen.
    dropped: int = 0

    def sources(self) -> set[str]:
        """IPv4 addresses that sent a packet."""
        found = (re.search(r" IP (\d+\.\d+\.\d+\.\d+)", packet) for packet in self.packets)
        return {match.group(1) for match in found if match}


@dataclass(frozen=True)
class Lab:
    """Where the run's files are, and who the fake internet is."""

    run_dir: Path
    internet_pid: int
    # The first uid of its servers' VMMs: users are the whole machine's, and labs run beside each other.
    base_uid: int

    def internet_command(self, argv: list[str]) -> list[str]:
        """The same command, run in the fake internet's network namespace."""
        return ["nsenter", "-t", str(self.internet_pid), "-n", *argv]

    def internet_requests(self) -> list[dict]:
        """Every request the fake internet's servers got so far, and what they were told beside (`raw`)."""
        return _lines(self.run_dir / "internet-requests.jsonl")

    def internet_questions(self) -> list[dict]:
        """Every question the fake internet's name servers got so far: `name`, `type`, `transport` …"""
        return _lines(self.run_dir / "internet-questions.jsonl")

    @contextmanager
    def capture(self, packet_filter: str = "") -> Iterator[Capture]:
        """Records what passes the internet's side of the link: the judge of what left the host.

        It fails if a packet was lost to it: what a capture does not show would say nothing then.
        """
        file, errors = self.run_dir / "capture.pcap", self.run_dir / "capture.stderr"
        wanted = f"({packet_filter}) or {_MARKER}" if packet_filter else ""
        argv = [*_TCPDUMP, "-w", str(file), *([wanted] if wanted else [])]
        with errors.open("w") as stderr:
            process = subprocess.Popen(self.internet_command(argv), stderr=stderr)
        capture = Capture()
        try:
            wait_until("tcpdump listens", lambda: "listening on" in errors.read_text())
            yield capture
            wait_until("tcpdump has written everything", lambda: _is_written(file))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=patience(10))
        shown = _shown(file, whole=True)
        capture.packets = [_without_link_layer(line) for line in shown if not _is_marker(line)]
        capture.dropped = _dropped(errors.read_text())
        assert capture.dropped == 0, f"the kernel dropped {capture.dropped} packets before tcpdump saw them"


def _lines(log: Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def _is_written(file: Path) -> bool:
    """What left before a marker is in the file once the marker is: tcpdump may be far behind.

    Each look sends another marker, because one that comes while the kernel's buffer is full is lost.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as marker:
        marker.sendto(b"end", (addresses.INTERNET_UPLINK, _MARKER_PORT))
    return any(map(_is_marker, _shown(file)))


def _shown(file: Path, whole: bool = False) -> list[str]:
    """The packets of a capture, a line each. While it is written its end may be cut off; later it is `whole`."""
    argv = ["tcpdump", "-nn", "-e", "-r", str(file)]
    return subprocess.run(argv, capture_output=True, text=True, check=whole).stdout.splitlines()


def _dropped(said: str) -> int:
    """From what tcpdump says at its end, the only place where it tells."""
    found = re.search(r"(\d+) packets? dropped by kernel", said)
    if not found:
        raise AssertionError(f"tcpdump did not tell how much it has lost: {said}")
    return int(found[1])


def _is_marker(line: str) -> bool:
    """Nobody listens on that port, so that it has an answer, too."""
    sent, answered = f" > {addresses.INTERNET_UPLINK}.{_MARKER_PORT}: UDP", f"udp port {_MARKER_PORT} unreachable"
    return sent in line or answered in line


def _without_link_layer(line: str) -> str:
    """Turns tcpdump's `-e` prefix into ` IP source …`, so that every packet reads alike."""
    return re.sub(r"^(\S+) .*?ethertype (\S+?) \(0x\w+\), length \d+: ", lambda m: f"{m[1]} {_kind(m[2])} ", line)


def _kind(ethertype: str) -> str:
    return {"IPv4": "IP", "IPv6": "IP6"}.get(ethertype, ethertype)


@cache
def current() -> Lab:
    """The lab this process runs in. Refuses to run outside of one."""
    description = os.environ.get("LEAPBOX_LAB")
    if not description:
        raise SystemExit("not in a lab: start with `make test`, or `python -m lab run -- pytest …`")
    known = json.loads(Path(description).read_text())
    return Lab(Path(known["run_dir"]), known["internet_pid"], known["base_uid"])

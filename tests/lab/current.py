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
from lab.waiting import wait_until

# A port that nothing else uses: a packet to it from the host itself ends a capture.
_MARKER_PORT = 61997
_MARKER = f"(udp dst port {_MARKER_PORT} and dst host {addresses.INTERNET_UPLINK})"


@dataclass
class Capture:
    """Packets on the link between host and internet, as tcpdump prints them; filled when the capture ends."""

    packets: list[str] = field(default_factory=list)

    def sources(self) -> set[str]:
        """IPv4 addresses that sent a packet."""
        found = (re.search(r" IP (\d+\.\d+\.\d+\.\d+)", packet) for packet in self.packets)
        return {match.group(1) for match in found if match}


@dataclass(frozen=True)
class Lab:
    """Where the run's files are, and who the fake internet is."""

    run_dir: Path
    internet_pid: int

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
        """Records what arrives on the internet's side of the link: the judge of what left the host."""
        file, errors = self.run_dir / "capture.pcap", self.run_dir / "capture.stderr"
        wanted = f"({packet_filter}) or {_MARKER}" if packet_filter else ""
        argv = ["tcpdump", "-i", "internet0", "-Z", "root", "--immediate-mode", "-U", "-w", str(file), wanted]
        with errors.open("w") as stderr:
            process = subprocess.Popen(self.internet_command([part for part in argv if part]), stderr=stderr)
        capture = Capture()
        try:
            wait_until("tcpdump listens", lambda: "listening on" in errors.read_text())
            yield capture
            # What left before the marker is in the file once the marker is: tcpdump may be far behind.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as marker:
                marker.sendto(b"end", (addresses.INTERNET_UPLINK, _MARKER_PORT))
            wait_until("tcpdump has written everything", lambda: any(map(_is_marker, _shown(file))))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=10)
        capture.packets = [_without_link_layer(line) for line in _shown(file) if not _is_marker(line)]


def _lines(log: Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def _shown(file: Path) -> list[str]:
    """The packets of a capture, a line each."""
    shown = subprocess.run(["tcpdump", "-nn", "-e", "-r", str(file)], capture_output=True, text=True)
    return shown.stdout.splitlines()


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
    return Lab(Path(known["run_dir"]), known["internet_pid"])

"""Many attempts of a sandbox to reach something, in one run of `guest/reach.py`.

    found = reach(sandbox, allowed=http("example.com"), literal=tcp(addresses.EVIL, 80, "GET …"))
    assert found["allowed"].reached and not found["literal"].reached

That a connection opened says nothing: under a custom policy the proxy accepts every one of them. Only what came back
counts, and what the capture on the internet's side shows.
"""

import json
from dataclasses import dataclass

from lab import addresses
from lab.sandboxes import GUEST_DIR, sh
from lab.waiting import patience

DNS_TYPES = {
    "A": 1,
    "NS": 2,
    "CNAME": 5,
    "NULL": 10,
    "MX": 15,
    "TXT": 16,
    "AAAA": 28,
    "SVCB": 64,
    "HTTPS": 65,
    "ANY": 255,
}
NXDOMAIN, NOT_IMPLEMENTED, REFUSED = 3, 4, 5
# Of the extended errors of RFC 8914.
PROHIBITED = 18
_TLS_ALERT = "\x15\x03"


@dataclass(frozen=True)
class Answer:
    """How an attempt ended, and what came back."""

    how: str
    data: str

    @property
    def answered(self) -> bool:
        return self.how == "answered"

    @property
    def reached(self) -> bool:
        """Whether it came from outside: not the proxy's own refusal, which is a TLS alert or an HTTP error."""
        if self.status is not None:
            return self.status == 200
        return self.answered and not self.data.startswith(_TLS_ALERT)

    @property
    def status(self) -> int | None:
        """The status of an HTTP answer."""
        return int(self.data.split(" ", 2)[1]) if self.data.startswith("HTTP/") else None

    @property
    def json(self) -> dict:
        """The JSON in it: the body of a web server's answer, or what a name server said."""
        return json.loads(self.data[self.data.index("{") :])

    @property
    def server(self) -> str | None:
        """Which of the fake internet's servers answered, if one did."""
        return self.json["server"] if self.status == 200 else None


def reach(sandbox, /, seconds: float = 4.0, **probes: dict) -> dict[str, Answer]:
    """Makes all attempts at once, as the sandbox's root; each has `seconds`."""
    wanted = {"patience": patience(seconds), "probes": list(probes.values())}
    sandbox.filesystem.write_file(path="/tmp/reach.py", content=(GUEST_DIR / "reach.py").read_text())
    sandbox.filesystem.write_file(path="/tmp/reach.json", content=json.dumps(wanted))
    printed = sh(sandbox, "sudo python3 /tmp/reach.py /tmp/reach.json", timeout=60 + 4 * seconds)
    return {name: Answer(**found) for name, found in zip(probes, json.loads(printed), strict=True)}


def get(host: str, path: str = "/", *headers: str) -> str:
    """A request as it is sent, and the last one of its connection."""
    lines = (f"GET {path} HTTP/1.1", f"Host: {host}", *headers, "Connection: close", "", "")
    return "\r\n".join(lines)


def tcp(address: str, port: int, *say: str, **options) -> dict:
    """`say` piece by piece; `until` what was awaited has come."""
    return {"kind": "tcp", "address": address, "port": port, "say": say, **options}


def http(host: str, path: str = "/", address: str | None = None, port: int = 80) -> dict:
    """A plain request for `host`, sent to `address` (else one that it has)."""
    return tcp(address or address_of(host), port, get(host, path))


def tls(name: str | None, say: str = "", address: str | None = None, port: int = 443, **options) -> dict:
    """TLS with `name` as SNI."""
    return {"kind": "tls", "name": name, "say": say, "address": address or address_of(name), "port": port, **options}


def https(host: str, path: str = "/", address: str | None = None, port: int = 443, **options) -> dict:
    """A request for `host` over TLS with that name."""
    return tls(host, get(host, path), address, port, **options)


def udp(address: str, port: int, say: str = "ping") -> dict:
    return {"kind": "udp", "address": address, "port": port, "say": say}


def ping(address: str) -> dict:
    return {"kind": "ping", "address": address}


def dns(name: str, kind: str = "A", server: str | None = None, transport: str = "udp") -> dict:
    """A question to a name server, the sandbox's own if none is named."""
    return {"kind": "dns", "name": name, "type": DNS_TYPES[kind], "server": server, "transport": transport}


def address_of(host: str | None) -> str:
    known = addresses.NAMES.get((host or "").lower().rstrip("."))
    return known[0] if known else addresses.EXAMPLE_COM

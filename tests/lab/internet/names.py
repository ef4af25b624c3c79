"""The name servers: DNS over UDP and TCP (RFC 1035), with the answers of `lab.addresses`.

Any other name does not exist. Every question is journalled.
"""

import asyncio
import socket
import struct

from lab import addresses
from lab.internet.journal import Journal

A, NS, CNAME, NULL, TXT, AAAA, OPT, SVCB, HTTPS = 1, 2, 5, 10, 16, 28, 41, 64, 65
_TYPES = {A: "A", NS: "NS", CNAME: "CNAME", NULL: "NULL", TXT: "TXT", AAAA: "AAAA", SVCB: "SVCB", HTTPS: "HTTPS"}
_NXDOMAIN = 3
_TTL = 60
# A hint for Encrypted Client Hello (SvcParamKey 5) and the address hints that go with it (RFC 9460).
_ECH_HINT = b"\x00\x01\x00" + struct.pack(">HH", 1, 3) + b"\x02h2" + struct.pack(">HH", 5, 8) + b"not-ech!"

# How many texts of 250 bytes these names have: more than fits over UDP, and more than a custom policy lets in.
_TEXTS = {"big.example.com": 12, "huge.example.com": 20}

Record = tuple[str, int, bytes]


class Zone:
    """What there is to answer. Names below `FLIPPING` remember that they were asked for."""

    def __init__(self):
        self._flipped: set[str] = set()

    def lookup(self, name: str, kind: int) -> list[Record] | None:
        """The records of a name, its aliases followed; None when it does not exist."""
        if alias := addresses.ALIASES.get(name):
            return [(name, CNAME, encoded(alias)), *(self.lookup(alias, kind) or [])]
        if name in addresses.NAMES:
            return [(name, kind, data) for data in self._known(name, kind)]
        if name.endswith(f".{addresses.FLIPPING}"):
            return [(name, A, socket.inet_aton(self._flip(name)))] if kind == A else []
        if name.endswith(tuple(f".{tunnel}" for tunnel in addresses.TUNNELS)):
            return [(name, kind, data) for data in _from_the_far_end(name, kind)]
        return None

    def _known(self, name: str, kind: int) -> list[bytes]:
        match kind:
            case 1:
                return [socket.inet_aton(address) for address in addresses.NAMES[name]]
            case 28 if name in addresses.AAAA:
                return [socket.inet_pton(socket.AF_INET6, addresses.AAAA[name])]
            case 64 | 65 if name == "ech.example.com":
                return [_ECH_HINT]
            case 16 if name in _TEXTS:
                return [_text(bytes([65 + number]) * 250) for number in range(_TEXTS[name])]
            case 16:
                return [_text(f"text of {name}".encode())]
            case _:
                return []

    def _flip(self, name: str) -> str:
        if name in self._flipped:
            return addresses.PRIVATE[0]
        self._flipped.add(name)
        return addresses.EXAMPLE_COM


def _from_the_far_end(name: str, kind: int) -> list[bytes]:
    secret = name.split(".")[0].encode()
    answers = {A: socket.inet_aton(addresses.EXAMPLE_COM), TXT: _text(b"pong " + secret), NULL: b"pong " + secret}
    return [answers[kind]] if kind in answers else []


def _text(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def encoded(name: str) -> bytes:
    """A name as it is sent, without compression."""
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


def _question(message: bytes) -> tuple[str, int, int]:
    """The name (in lower case) and type asked for, and where the question ends."""
    labels, at = [], 12
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode("latin-1").lower())
        at += 1 + length
    return ".".join(labels), struct.unpack_from(">H", message, at + 1)[0], at + 5


def _room(message: bytes, end: int) -> int:
    """How much the asker takes over UDP: what its OPT record says (RFC 6891), else 512."""
    is_opt = len(message) >= end + 11 and message[end : end + 3] == b"\0" + struct.pack(">H", OPT)
    return max(512, struct.unpack_from(">H", message, end + 3)[0]) if is_opt else 512


def answer(zone: Zone, message: bytes, name: str, kind: int, end: int, room: int) -> bytes:
    """The answer to a question, cut to nothing but its header when it is larger than `room`."""
    identity, flags = struct.unpack_from(">HH", message)
    records = zone.lookup(name, kind)
    flags = 0x8080 | (flags & 0x0100) | (_NXDOMAIN if records is None else 0)
    body = b"".join(
        encoded(owner) + struct.pack(">HHIH", kind, 1, _TTL, len(data)) + data for owner, kind, data in records or []
    )
    question = message[12:end]
    if 12 + len(question) + len(body) > room:
        return struct.pack(">6H", identity, flags | 0x0200, 1, 0, 0, 0) + question
    return struct.pack(">6H", identity, flags, 1, len(records or []), 0, 0) + question + body


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: "NameServer", address: str):
        self._server, self._address = server, address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
        reply = self._server.reply(data, self._address, sender[0], "udp")
        self._transport.sendto(reply, sender)  # type: ignore[attr-defined]


class NameServer:
    """The same names on several addresses."""

    def __init__(self, journal: Journal):
        self._journal = journal
        # Each with a memory of its own: a resolver may ask all of them the same question at once.
        self._zones = {address: Zone() for address in addresses.DNS_SERVERS}

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        for address in addresses.DNS_SERVERS:
            await loop.create_datagram_endpoint(
                lambda address=address: _Datagrams(self, address), local_addr=(address, 53)
            )
        await asyncio.start_server(self._serve, host=addresses.DNS_SERVERS, port=53)

    def reply(self, message: bytes, server: str, client: str, transport: str) -> bytes:
        name, kind, end = _question(message)
        asked = {"name": name, "type": _TYPES.get(kind, str(kind)), "transport": transport}
        self._journal.question(server=server, client=client, **asked)
        room = _room(message, end) if transport == "udp" else 65535
        return answer(self._zones[server], message, name, kind, end, room)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server, client = writer.get_extra_info("sockname")[0], writer.get_extra_info("peername")[0]
        try:
            while True:
                (length,) = struct.unpack(">H", await reader.readexactly(2))
                reply = self.reply(await reader.readexactly(length), server, client, "tcp")
                writer.write(struct.pack(">H", len(reply)) + reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

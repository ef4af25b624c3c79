"""Runs inside a sandbox, as its root: says something to many places at once, and tells what came back.

`reach.py FILE`: a JSON object with `patience` (seconds for each) and `probes`, a list of objects with a `kind` and
its arguments, which are those of the function of that name. Prints a JSON list: for each probe `how` it ended
("answered", "closed", "reset", "refused", "timeout", or what the kernel said) and the `data` that came, as Latin-1.
"""

import json
import os
import socket
import ssl
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor

PATIENCE_S = 4.0
# The type of a record that belongs to the message and not to a name (RFC 6891), and its option for errors (RFC 8914).
OPT, EXTENDED_ERROR = 41, 15


def tcp(address, port, say=(), until=None, pause=0.05):
    """Says the pieces one after the other, and listens until the end, or until `until` has come."""
    with socket.create_connection((address, port), PATIENCE_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in say:
            connection.sendall(piece.encode("latin-1"))
            time.sleep(pause)
        return listen(connection.recv, until)


def tls(address, port, name, say="", until=None, pieces=1, protocols=()):
    """The same over TLS, without looking at the certificate: its first flight is sent in `pieces`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with socket.create_connection((address, port), PATIENCE_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def pump(step):
            nonlocal pieces
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    flight = outgoing.read()
                    size = -(-len(flight) // pieces) or 1
                    for start in range(0, len(flight), size):
                        connection.sendall(flight[start : start + size])
                        time.sleep(0.05 if pieces > 1 else 0)
                    pieces = 1
                    if not (data := connection.recv(65536)):
                        raise ConnectionAbortedError("closed") from None
                    incoming.write(data)

        pump(session.do_handshake)
        session.write(say.encode("latin-1"))
        connection.sendall(outgoing.read())
        try:
            return listen(lambda size: pump(lambda: session.read(size)), until)
        except ConnectionAbortedError:
            return b""


def listen(receive, until):
    data = b""
    try:
        while not (until and until.encode("latin-1") in data) and (more := receive(65536)):
            data += more
    except (OSError, ssl.SSLError):
        if not data:
            raise
    return data


def udp(address, port, say="ping"):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.settimeout(PATIENCE_S)
        # Connected, so that a rejection by ICMP is told.
        sender.connect((address, port))
        sender.send(say.encode("latin-1"))
        return sender.recv(65536)


def ping(address):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sender:
        sender.settimeout(PATIENCE_S)
        body = struct.pack(">BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, 1)
        total = sum(struct.unpack(">4H", body))
        total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        sender.sendto(body[:2] + struct.pack(">H", total) + body[4:], (address, 0))
        while True:
            data, (source, _) = sender.recvfrom(2048)
            # 0: an echo reply; 3 would be a router's refusal.
            if source == address and data[20] == 0:
                return data


def dns(name, type, server=None, transport="udp"):
    """Asks a name server, the sandbox's own if none is named. The data is JSON: see `told`."""
    message = struct.pack(">6H", os.getpid() & 0xFFFF, 0x0100, 1, 0, 0, 1) + encoded(name)
    message += struct.pack(">HH", type, 1) + b"\0" + struct.pack(">HHIH", 41, 1232, 0, 0)
    server = server or own_name_server()
    if transport == "udp":
        return told(udp(server, 53, message.decode("latin-1")))
    with socket.create_connection((server, 53), PATIENCE_S) as connection:
        connection.sendall(struct.pack(">H", len(message)) + message)
        stream = connection.makefile("rb")
        head = stream.read(2)
        return told(stream.read(struct.unpack(">H", head)[0])) if head else b""


def own_name_server():
    with open("/etc/resolv.conf") as file:
        return next(line.split()[1] for line in file if line.startswith("nameserver"))


def encoded(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


def told(message):
    """`code`, whether it is `cut`, `answers`, its `size`, and the extended error `ede`, if there is one."""
    _, flags, questions, answers, authorities, additional = struct.unpack_from(">6H", message)
    at, records = 12, []
    for _ in range(questions):
        at = past_name(message, at) + 4
    for _ in range(answers + authorities + additional):
        at = past_name(message, at)
        kind, _, _, length = struct.unpack_from(">HHIH", message, at)
        records.append((kind, message[at + 10 : at + 10 + length]))
        at += 10 + length
    summary = {
        "code": flags & 15,
        "cut": bool(flags & 0x200),
        "answers": [shown(*record) for record in records[:answers]],
        "size": len(message),
        "ede": extended_error(records[answers:]),
    }
    return json.dumps(summary).encode()


def shown(kind, data):
    return socket.inet_ntoa(data) if kind == 1 else [kind, data.decode("latin-1")]


def extended_error(records):
    for data in (data for kind, data in records if kind == OPT):
        at = 0
        while at < len(data):
            option, length = struct.unpack_from(">HH", data, at)
            if option == EXTENDED_ERROR:
                return struct.unpack_from(">H", data, at + 4)[0]
            at += 4 + length
    return None


def past_name(message, at):
    while message[at]:
        if message[at] & 0xC0:
            return at + 2
        at += 1 + message[at]
    return at + 1


def run(probe):
    kind = KINDS[probe.pop("kind")]
    try:
        data = kind(**probe)
        return {"how": "answered" if data else "closed", "data": data.decode("latin-1")}
    except TimeoutError:
        return {"how": "timeout", "data": ""}
    except ConnectionRefusedError:
        return {"how": "refused", "data": ""}
    except ConnectionResetError:
        return {"how": "reset", "data": ""}
    except (ConnectionError, ssl.SSLError, OSError) as error:
        return {"how": str(error), "data": ""}


KINDS = {"tcp": tcp, "tls": tls, "udp": udp, "ping": ping, "dns": dns}


def main():
    global PATIENCE_S
    with open(sys.argv[1]) as file:
        wanted = json.load(file)
    PATIENCE_S = wanted["patience"]
    with ThreadPoolExecutor(32) as pool:
        print(json.dumps(list(pool.map(run, wanted["probes"]))))


if __name__ == "__main__":
    main()

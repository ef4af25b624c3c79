"""Runs inside a sandbox, as its root: what can be reached from there?

`probe.py ADDRESS:PORT…` prints a JSON object: target → "open", or the error that stopped the connection.
`probe.py spoof SOURCE DESTINATION PORT` sends one UDP packet with a forged source address.
`probe.py claim ADDRESS…` says by ARP to everybody on the link that the addresses are this machine's.
"""

import json
import socket
import struct
import sys
from concurrent.futures import ThreadPoolExecutor

PATIENCE_S = 4.0


def knock(target):
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE_S).close()
        return target, "open"
    except OSError as error:
        return target, str(error)


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def spoof(source, destination, port):
    payload = b"forged"
    udp = struct.pack(">HHHH", 4444, port, 8 + len(payload), 0) + payload
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, socket.IPPROTO_UDP, 0) + addresses
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    raw.sendto(head + udp, (destination, 0))


def claim(address):
    """Gratuitous ARP (RFC 5227, section 3), as a request and as a reply."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind(("eth0", 0))
        own, everybody = link.getsockname()[4], b"\xff" * 6
        for operation in (1, 2):
            head = everybody + own + struct.pack(">H", 0x0806) + struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
            link.send(head + own + socket.inet_aton(address) + everybody + socket.inet_aton(address))


if __name__ == "__main__":
    if sys.argv[1] == "spoof":
        spoof(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    elif sys.argv[1] == "claim":
        for claimed in sys.argv[2:]:
            claim(claimed)
    else:
        with ThreadPoolExecutor(64) as pool:
            print(json.dumps(dict(pool.map(knock, sys.argv[1:]))))

"""Runs inside a sandbox, as its root: what can be reached from there?

`probe.py ADDRESS:PORT…` prints a JSON object: target → "open", or the error that stopped the connection.
`probe.py spoof SOURCE DESTINATION PORT` sends one UDP packet with a forged source address.
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


if __name__ == "__main__":
    if sys.argv[1] == "spoof":
        spoof(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        with ThreadPoolExecutor(64) as pool:
            print(json.dumps(dict(pool.map(knock, sys.argv[1:]))))

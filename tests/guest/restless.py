"""Runs inside a sandbox, as its root: sends to places without a pause, in every way, whatever the answers are.

`restless.py ALLOWED FORBIDDEN…`: addresses. Each round, every 20 ms: UDP to all of them, a packet with a forged
source to the first, a new TCP connection to each forbidden one, words over a connection to the first that is kept as
long as it lives, and a question to its own name server and to others'. How many rounds are over is in /dev/shm/rounds.
"""

import os
import socket
import sys
import time

sys.path.insert(0, "/tmp")
import probe

ROUNDS = "/dev/shm/rounds"
QUESTION = b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06stolen\x06tunnel\x07example\x03org\x00\x00\x10\x00\x01"


def quietly(action, *arguments):
    try:
        return action(*arguments)
    except OSError:
        return None


def knock(address, port):
    connection = socket.socket()
    connection.setblocking(False)
    connection.connect_ex((address, port))
    return connection


def tell(rounds):
    """Whole or not at all, because somebody reads it at any time."""
    with open(f"{ROUNDS}.new", "w") as file:
        file.write(str(rounds))
    os.replace(f"{ROUNDS}.new", ROUNDS)


def main():
    allowed, forbidden = sys.argv[1], sys.argv[2:]
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with open("/etc/resolv.conf") as file:
        own = next(line.split()[1] for line in file if line.startswith("nameserver"))
    kept, knocking, rounds = None, [], 0
    while True:
        for address in (allowed, *forbidden):
            quietly(out.sendto, b"restless", (address, 7))
        quietly(probe.spoof, "6.6.6.6", allowed, 7)
        for server in (own, "1.1.1.1"):
            quietly(out.sendto, QUESTION, (server, 53))
        knocking += [knock(address, 80) for address in forbidden]
        while len(knocking) > 64:
            knocking.pop(0).close()
        if kept is None:
            kept = quietly(socket.create_connection, (allowed, 7), 1)
        elif quietly(kept.send, b"restless") is None:
            kept = quietly(kept.close)
        rounds += 1
        tell(rounds)
        time.sleep(0.02)


if __name__ == "__main__":
    main()

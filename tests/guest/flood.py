"""Runs inside a sandbox, as its root: opens as many TCP connections to one place as it can, and holds them.

`flood.py ADDRESS PORT COUNT [SAY]`: prints how many were open at once, then again once a second how many still are.
"""

import contextlib
import resource
import select
import socket
import sys
import time


def main():
    address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    say = sys.argv[4].encode().decode("unicode_escape").encode("latin-1") if len(sys.argv) > 4 else b""
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 64, count + 64))
    held = set()
    for _ in range(count):
        connection = socket.socket()
        connection.settimeout(0.5)
        try:
            connection.connect((address, port))
            connection.sendall(say)
            held.add(connection)
        except OSError:
            connection.close()
    while True:
        print(len(held), flush=True)
        poller = select.poll()
        for connection in held:
            poller.register(connection, select.POLLIN | select.POLLHUP)
        by_number = {connection.fileno(): connection for connection in held}
        for number, _ in poller.poll(0):
            with contextlib.suppress(OSError):
                if by_number[number].recv(65536):
                    continue
            held.discard(by_number[number])
            by_number[number].close()
        time.sleep(1)


if __name__ == "__main__":
    main()

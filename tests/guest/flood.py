"""Runs inside a sandbox, as its root: holds as many TCP connections to one place as it is let.

`flood.py ADDRESS PORT COUNT [SAY]`: opens COUNT of them and prints how many are left a second later; then it opens new
ones for those that were closed, and so on, as long as it lives.
"""

import contextlib
import resource
import select
import socket
import sys
import time


def opened(address, port, say):
    """A new connection, or nothing."""
    connection = socket.socket()
    connection.settimeout(0.5)
    try:
        connection.connect((address, port))
        connection.sendall(say)
    except OSError:
        connection.close()
        return None
    return connection


def close_those_that_have_ended(held):
    poller = select.poll()
    by_number = {connection.fileno(): connection for connection in held}
    for number in by_number:
        poller.register(number, select.POLLIN | select.POLLHUP)
    for number, _ in poller.poll(0):
        with contextlib.suppress(OSError):
            if by_number[number].recv(65536):
                continue
        held.discard(by_number[number])
        by_number[number].close()


def main():
    address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    say = sys.argv[4].encode().decode("unicode_escape").encode("latin-1") if len(sys.argv) > 4 else b""
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 64, count + 64))
    held = set()
    while True:
        attempts = [opened(address, port, say) for _ in range(count - len(held))]
        held.update(connection for connection in attempts if connection)
        time.sleep(1)
        close_those_that_have_ended(held)
        print(len(held), flush=True)


if __name__ == "__main__":
    main()

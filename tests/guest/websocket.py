"""Runs inside a sandbox: a WebSocket client over TLS with nothing but Python, trusting what its environment says.

`websocket.py HOST PATH MESSAGE`: prints the status line of the handshake and the echo of the message (RFC 6455).
"""

import base64
import os
import socket
import ssl
import struct
import sys


def main():
    host, path, message = sys.argv[1], sys.argv[2], sys.argv[3].encode()
    plain = socket.create_connection((host, 443), 20)
    with ssl.create_default_context().wrap_socket(plain, server_hostname=host) as connection:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "Authorization: Bearer guest", "", ""]
        connection.sendall("\r\n".join(lines).encode())
        stream = connection.makefile("rb")
        print(stream.readline().decode().strip())
        while stream.readline().strip():
            continue
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(message))
        connection.sendall(struct.pack(">BB", 0x81, 0x80 | len(message)) + mask + masked)
        _, length = struct.unpack(">BB", stream.read(2))
        print(stream.read(length).decode())


if __name__ == "__main__":
    main()

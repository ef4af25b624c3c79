"""A small web application that runs inside a sandbox, with nothing but Python's standard library.

`python3 app.py PORT [ADDRESS]`. It shows what reached it, streams both ways, and speaks WebSocket:

    GET  /            hello
    GET  /headers     the request's headers as they came, in order
    POST /echo        the body, sent back piece by piece
    POST /upload      counts the body's bytes as they come; GET /uploaded tells the count meanwhile
    GET  /events      server-sent events: "first", and "second" only after POST /go
    GET  /bytes/N     N bytes
    GET  /ws          WebSocket echo
"""

import base64
import hashlib
import json
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

uploaded = 0
go_on = threading.Event()


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/headers":
            self.answer(json.dumps(list(self.headers.items())).encode())
        elif self.path == "/uploaded":
            self.answer(str(uploaded).encode())
        elif self.path == "/events":
            self.send_events()
        elif self.path.startswith("/bytes/"):
            self.answer(b"x" * int(self.path.rsplit("/", 1)[1]))
        elif self.headers.get("upgrade", "").lower() == "websocket":
            self.echo_websocket()
        else:
            self.answer(b"hello from the sandbox\n")

    def do_POST(self):
        global uploaded
        if self.path == "/go":
            go_on.set()
            self.answer(b"gone on")
        elif self.path == "/upload":
            uploaded = 0
            for piece in self.body():
                uploaded += len(piece)
            self.answer(str(uploaded).encode())
        else:
            self.begin_chunked("application/octet-stream")
            for piece in self.body():
                self.send_chunk(piece)
            self.send_chunk(b"")

    def body(self):
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("content-length", 0))
        while left:
            piece = self.rfile.read1(min(left, 65536))
            if not piece:
                return
            left -= len(piece)
            yield piece

    def answer(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin_chunked(self, kind):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def send_chunk(self, piece):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.flush()

    def send_events(self):
        self.begin_chunked("text/event-stream")
        go_on.clear()
        self.send_chunk(b"data: first\n\n")
        go_on.wait(60)
        self.send_chunk(b"data: second\n\n")
        self.send_chunk(b"")

    def echo_websocket(self):
        key = self.headers["sec-websocket-key"] + WEBSOCKET_GUID
        self.send_response(101)
        self.send_header("upgrade", "websocket")
        self.send_header("connection", "Upgrade")
        self.send_header("sec-websocket-accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.send_header("x-guest-saw", base64.b64encode(json.dumps(list(self.headers.items())).encode()).decode())
        self.end_headers()
        self.close_connection = True
        while True:
            kind, payload = self.read_frame()
            if kind == CLOSE:
                self.send_frame(CLOSE, payload[:2])
                return
            self.send_frame(PONG if kind == PING else kind, payload)

    def read_frame(self):
        first, second = self.read_exactly(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", self.read_exactly(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self.read_exactly(8))
        mask = self.read_exactly(4)
        data = self.read_exactly(size)
        repeated = (mask * (size // 4 + 1))[:size]
        plain = (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")
        return first & 0x0F, plain

    def read_exactly(self, size):
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionError("the other side hung up")
        return data

    def send_frame(self, kind, payload):
        size = len(payload)
        if size < 126:
            head = struct.pack(">BB", 0x80 | kind, size)
        elif size < 65536:
            head = struct.pack(">BBH", 0x80 | kind, 126, size)
        else:
            head = struct.pack(">BBQ", 0x80 | kind, 127, size)
        self.wfile.write(head + payload)
        self.wfile.flush()

    def log_message(self, *arguments):
        return


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # All of a storm's connections at once: what does not fit is sent again by the kernel a second later.
    request_queue_size = 1024


if __name__ == "__main__":
    Server((sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1", int(sys.argv[1])), App).serve_forever()

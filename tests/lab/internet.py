"""The fake internet: DNS, HTTP and echo servers on public-looking addresses in a network namespace of their own.

Runs as a process of the lab (`python -m lab.internet RUN_DIR`), inside the namespace already; the link `internet0` is
there. Writes `internet.ready` when every server listens, and one JSON line per HTTP request into
`internet-requests.jsonl`.
"""

import json
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from lab import addresses
from lab.kernel import die_with_parent
from lab.waiting import wait_until


def _configure_addresses() -> None:
    lines = ["link set lo up", "link set internet0 up"]
    lines += [
        f"addr add {addresses.INTERNET_UPLINK}/24 dev internet0",
        f"addr add {addresses.LAN_NEIGHBOUR}/24 dev internet0",
    ]
    others = (*addresses.PUBLIC, addresses.METADATA, *addresses.PRIVATE[:-1])
    lines += [f"addr add {address}/32 dev lo" for address in others]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def _start_dns(run_dir: Path) -> subprocess.Popen:
    records = [f"--host-record={name},{address}" for name, address in addresses.NAMES.items()]
    listen = [f"--listen-address={address}" for address in addresses.DNS_SERVERS]
    return subprocess.Popen(
        [
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--no-poll",
            "--bind-interfaces",
            "--user=root",
            "--pid-file=",
            "--log-queries",
            "--cache-size=0",
            # Any other name is known not to exist: NXDOMAIN instead of a refusal.
            "--address=/#/",
            f"--log-facility={run_dir / 'internet-dns.log'}",
            *listen,
            *records,
        ],
        preexec_fn=lambda: die_with_parent(signal.SIGKILL),
    )


class _Web(BaseHTTPRequestHandler):
    """Tells who asked whom; `/bytes/N` answers N bytes."""

    protocol_version = "HTTP/1.1"
    log_file: Path
    _lock = threading.Lock()

    def do_GET(self) -> None:
        here, there = self.connection.getsockname()[0], self.client_address[0]
        seen = {"server": here, "client": there, "host": self.headers.get("host"), "path": self.path}
        with self._lock, self.log_file.open("a") as log:
            log.write(json.dumps(seen) + "\n")
        if self.path.startswith("/bytes/"):
            self._answer(b"x" * int(self.path.rsplit("/", 1)[1]), "application/octet-stream")
            return
        if here == addresses.METADATA:
            seen["secret"] = "the cloud's own metadata"
        self._answer(json.dumps(seen).encode(), "application/json")

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


def _serve_tcp_echo() -> None:
    def serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    listener = socket.create_server(("", addresses.ECHO_PORT))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def _serve_udp_echo() -> None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    # One socket per address: an answer must come from the address that was asked.
    listener.bind((addresses.EXAMPLE_COM, addresses.ECHO_PORT))
    while True:
        data, sender = listener.recvfrom(65536)
        listener.sendto(data, sender)


def main() -> None:
    run_dir = Path(sys.argv[1])
    die_with_parent(signal.SIGKILL)
    wait_until("the link to the host", lambda: Path("/proc/self/net/dev").read_text().count("internet0"))
    _configure_addresses()
    dns = _start_dns(run_dir)
    _Web.log_file = run_dir / "internet-requests.jsonl"
    web = ThreadingHTTPServer(("", addresses.HTTP_PORT), _Web)
    for serve in (_serve_tcp_echo, _serve_udp_echo, web.serve_forever):
        threading.Thread(target=serve, daemon=True).start()
    for port in (addresses.HTTP_PORT, addresses.ECHO_PORT):
        wait_until(
            f"port {port}", lambda port=port: socket.create_connection((addresses.EXAMPLE_COM, port), 1).close() is None
        )
    wait_until("the name server", lambda: socket.create_connection((addresses.DNS_SERVERS[0], 53), 1).close() is None)
    (run_dir / "internet.ready").write_text("ready\n")
    sys.exit(dns.wait())


if __name__ == "__main__":
    main()

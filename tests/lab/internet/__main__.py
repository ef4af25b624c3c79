"""`python -m lab.internet RUN_DIR`: a process of the lab, inside the namespace already; `internet0` will be there."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

from lab import addresses
from lab.internet import http1, sockets, websocket
from lab.internet.certificates import Certificates
from lab.internet.http2 import Http2
from lab.internet.journal import Journal
from lab.internet.names import NameServer
from lab.internet.web import Web
from lab.kernel import die_with_parent
from lab.waiting import wait_until

_EVERYWHERE = [address for address in (*addresses.PUBLIC, addresses.METADATA, *addresses.PRIVATE)]
_DOT_PORT = 853
# Heads of any size are for the product to refuse.
_HEAD_LIMIT = 1 << 20


def _configure_addresses() -> None:
    lines = ["link set lo up", "link set internet0 up"]
    lines += [
        f"addr add {addresses.INTERNET_UPLINK}/24 dev internet0",
        f"addr add {addresses.LAN_NEIGHBOUR}/24 dev internet0",
    ]
    others = (*addresses.PUBLIC, addresses.METADATA, *addresses.PRIVATE[:-1])
    lines += [f"addr add {address}/32 dev lo" for address in others]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


async def _start_web(web: Web, certificates: Certificates) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("ssl_object")
        try:
            if connection and connection.selected_alpn_protocol() == "h2":
                await Http2(web, reader, writer).serve()
            else:
                await http1.serve(web, reader, writer)
        except ConnectionError:
            return
        finally:
            writer.close()

    serving = [address for address in _EVERYWHERE if address not in (addresses.SSH, addresses.DEAD)]
    secure = [address for address in serving if address != addresses.WEBSOCKET]
    context = certificates.context()
    await asyncio.start_server(serve, host=serving, port=addresses.HTTP_PORT, limit=_HEAD_LIMIT)
    await asyncio.start_server(serve, host=secure, port=addresses.HTTPS_PORT, ssl=context, limit=_HEAD_LIMIT)
    await asyncio.start_server(serve, host=addresses.DNS_SERVERS, port=_DOT_PORT, ssl=context)


async def _serve(run_dir: Path) -> None:
    journal, certificates = Journal(run_dir), Certificates(run_dir)
    await NameServer(journal).start()
    await _start_web(Web(run_dir, journal), certificates)
    await websocket.start(journal, certificates.context_without_http2())
    await sockets.start(journal, [address for address in _EVERYWHERE if address != addresses.DEAD])
    (run_dir / "internet.ready").write_text("ready\n")
    await asyncio.Event().wait()


def main() -> None:
    run_dir = Path(sys.argv[1])
    die_with_parent(signal.SIGKILL)
    wait_until("the link to the host", lambda: Path("/proc/self/net/dev").read_text().count("internet0"))
    _configure_addresses()
    asyncio.run(_serve(run_dir))


if __name__ == "__main__":
    main()

"""Servers without a protocol that tells a name: TCP and UDP echo, and one that speaks first."""

import asyncio

from lab import addresses
from lab.internet.journal import Journal

_UDP_ADDRESSES = (addresses.EXAMPLE_COM, addresses.EXAMPLE_NET, addresses.EVIL)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        return
    finally:
        writer.close()


class _EchoDatagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
        self._transport.sendto(data, sender)  # type: ignore[attr-defined]


async def start(journal: Journal, everywhere: list[str]) -> None:
    """TCP echo `everywhere`, UDP echo at some addresses and several ports, and the one that speaks first."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (server, port), client = writer.get_extra_info("sockname")[:2], writer.get_extra_info("peername")[0]
        writer.write(addresses.BANNER)
        try:
            while said := await reader.readline():
                journal.request(server=server, port=port, client=client, sni=None, raw=said.decode("latin-1"))
                writer.write(b"heard " + said)
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()

    loop = asyncio.get_running_loop()
    await asyncio.start_server(_echo, host=everywhere, port=addresses.ECHO_PORT)
    await asyncio.start_server(greet, host=[addresses.SSH, addresses.EVIL], port=addresses.SSH_PORT)
    for address in _UDP_ADDRESSES:
        for port in addresses.UDP_ECHO_PORTS:
            await loop.create_datagram_endpoint(_EchoDatagrams, local_addr=(address, port))

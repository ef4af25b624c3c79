"""WebSocket over TLS: an echo that notes the headers of its handshake."""

import contextlib
import ssl

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError
from websockets.http11 import Request

from lab import addresses
from lab.internet.certificates import asked_name
from lab.internet.journal import Journal


async def start(journal: Journal, context: ssl.SSLContext) -> None:
    def note(connection: ServerConnection, request: Request) -> None:
        sni = asked_name(connection.transport.get_extra_info)
        headers = [list(header) for header in request.headers.raw_items()]
        seen = {"path": request.path, "host": request.headers.get("host"), "headers": headers}
        place = {"server": connection.local_address[0], "port": connection.local_address[1]}
        client = connection.remote_address[0]
        journal.request(**place, client=client, sni=sni, version="websocket", method="GET", **seen)

    async def echo(connection: ServerConnection) -> None:
        # Clients may leave without a word.
        with contextlib.suppress(ConnectionClosedError):
            async for message in connection:
                await connection.send(message)

    await serve(echo, addresses.WEBSOCKET, addresses.HTTPS_PORT, ssl=context, process_request=note)

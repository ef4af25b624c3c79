"""HTTP/2, one request after the other on each connection; bodies within the client's flow control."""

import asyncio

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError

from lab.internet.certificates import asked_name
from lab.internet.message import Request
from lab.internet.web import Web


class Http2:
    """A connection."""

    def __init__(self, web: Web, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._web, self._reader, self._writer = web, reader, writer
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._asked: dict[int, Request] = {}
        # What is still to be sent of each answer.
        self._answers: dict[int, bytes] = {}

    async def serve(self) -> None:
        self._h2.initiate_connection()
        self._writer.write(self._h2.data_to_send())
        while data := await self._reader.read(65536):
            try:
                for event in self._h2.receive_data(data):
                    await self._handle(event)
            except ProtocolError:
                self._h2.close_connection(ErrorCodes.PROTOCOL_ERROR)
                self._writer.write(self._h2.data_to_send())
                return
            self._send_what_fits()
            self._writer.write(self._h2.data_to_send())
            await self._writer.drain()

    async def _handle(self, event: object) -> None:
        match event:
            case RequestReceived():
                self._asked[event.stream_id] = self._request(list(event.headers))
                self._web.note(self._asked[event.stream_id])
            case DataReceived():
                self._asked[event.stream_id].body += event.data
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case StreamEnded():
                await self._respond(event.stream_id, self._asked.pop(event.stream_id))
            case StreamReset():
                self._asked.pop(event.stream_id, None)
                self._answers.pop(event.stream_id, None)

    def _request(self, fields: list[tuple[str, str]]) -> Request:
        server, port = self._writer.get_extra_info("sockname")[:2]
        client, sni = self._writer.get_extra_info("peername")[0], asked_name(self._writer.get_extra_info)
        pseudo = dict(field for field in fields if field[0].startswith(":"))
        headers = [field for field in fields if not field[0].startswith(":")]
        host = pseudo.get(":authority")
        return Request(server, port, client, sni, "2", pseudo[":method"], pseudo[":path"], host, headers)

    async def _respond(self, stream: int, request: Request) -> None:
        response = await self._web.respond(request)
        length = ("content-length", str(len(response.body)))
        self._h2.send_headers(stream, [(":status", str(response.status)), *response.headers, length])
        self._answers[stream] = b"" if request.method == "HEAD" else response.body

    def _send_what_fits(self) -> None:
        for stream, left in list(self._answers.items()):
            while left and (room := min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)):
                self._h2.send_data(stream, left[:room])
                left = left[room:]
            self._answers[stream] = left
            if not left:
                self._h2.end_stream(stream)
                del self._answers[stream]

"""HTTP/1.1 as lenient as the worst servers are: whatever ends in an empty line is a request, and is noted."""

import asyncio

from lab.internet.certificates import asked_name
from lab.internet.message import Request, Response
from lab.internet.web import Web


async def serve(web: Web, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Every request of a connection."""
    server, port = writer.get_extra_info("sockname")[:2]
    place = (server, port, writer.get_extra_info("peername")[0], asked_name(writer.get_extra_info))
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            request = _parsed(head, *place)
            if request is None:
                web.raw(*place, head)
                return
            web.note(request)
            if (request.header("expect") or "").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.body = await _body(request, reader)
            response = await web.respond(request)
            writer.write(_written(response, with_body=request.method != "HEAD"))
            await writer.drain()
            if "close" in (request.header("connection") or "").lower():
                return
    except asyncio.IncompleteReadError as error:
        if error.partial:
            web.raw(*place, error.partial)
    except ValueError as error:
        web.raw(*place, f"a body that does not end: {error}".encode())
    except asyncio.LimitOverrunError:
        web.raw(*place, b"a head without end")


def _parsed(head: bytes, server: str, port: int, client: str, sni: str | None) -> Request | None:
    line, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    words = line.split(" ")
    if len(words) != 3:
        return None
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    host = next((value for name, value in headers if name.lower() == "host"), None)
    return Request(server, port, client, sni, "1.1", words[0], words[1], host, headers)


async def _body(request: Request, reader: asyncio.StreamReader) -> bytes:
    if "chunked" not in (request.header("transfer-encoding") or "").lower():
        return await reader.readexactly(int(request.header("content-length") or 0))
    body = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readline()
    while (await reader.readline()).strip():
        continue
    return body


def _written(response: Response, with_body: bool) -> bytes:
    headers = [*response.headers, ("content-length", str(len(response.body)))]
    head = f"HTTP/1.1 {response.status} Lab\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)
    return head.encode() + b"\r\n" + (response.body if with_body else b"")

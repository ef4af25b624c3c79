"""Git over HTTP: `git http-backend` (CGI) for the bare repositories of a folder, for whoever shows any credential."""

import asyncio
import os
from pathlib import Path

from lab.internet.message import Request, Response


async def respond(folder: Path, request: Request, path: str) -> Response:
    if request.header("authorization") is None:
        return Response(401, b"who are you?\n", [("www-authenticate", 'Basic realm="lab"')])
    process = await asyncio.create_subprocess_exec(
        "git", "http-backend", env=_environment(folder, request, path), stdin=-1, stdout=-1
    )
    answer, _ = await process.communicate(request.body)
    head, _, body = answer.partition(b"\r\n\r\n")
    headers = [tuple(line.split(": ", 1)) for line in head.decode().split("\r\n") if ": " in line]
    status = next((int(value.split()[0]) for name, value in headers if name.lower() == "status"), 200)
    return Response(status, body, [(name.lower(), value) for name, value in headers if name.lower() != "status"])


def _environment(folder: Path, request: Request, path: str) -> dict[str, str]:
    path, _, query = path.partition("?")
    given = {
        "GIT_PROJECT_ROOT": str(folder),
        "GIT_HTTP_EXPORT_ALL": "1",
        "REMOTE_USER": "lab",
        "REMOTE_ADDR": request.client,
        "REQUEST_METHOD": request.method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_TYPE": request.header("content-type") or "",
        "HTTP_CONTENT_ENCODING": request.header("content-encoding") or "",
        "GIT_PROTOCOL": request.header("git-protocol") or "",
    }
    return {**os.environ, **given}

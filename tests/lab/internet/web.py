"""What the web servers answer, whatever carries it.

`/bytes/N` is N bytes, `/files/NAME` a file of the run's folder `www`, `/git/…` a repository of its folder `git`,
`/digest` the SHA-256 of the request's body; all else tells who asked whom. Answers never repeat a header: a test that
looks for a secret in a guest must not have it sent there by the lab.
"""

import hashlib
import json
from pathlib import Path

from lab import addresses
from lab.internet import git
from lab.internet.journal import Journal
from lab.internet.message import Request, Response


class Web:
    """One site for all addresses."""

    def __init__(self, run_dir: Path, journal: Journal):
        self._run_dir, self._journal = run_dir, journal

    def raw(self, server: str, port: int, client: str, sni: str | None, said: bytes) -> None:
        """Notes what was no request."""
        self._journal.request(server=server, port=port, client=client, sni=sni, raw=said.decode("latin-1"))

    def note(self, request: Request) -> None:
        """Notes a request once its head is there, whether or not its body ever is."""
        self._journal.request(**{name: value for name, value in vars(request).items() if name != "body"})

    async def respond(self, request: Request) -> Response:
        """Answers a request."""
        folder, _, rest = request.path.removeprefix("/").partition("/")
        match folder:
            case "bytes":
                return Response(200, b"x" * int(rest), [("content-type", "application/octet-stream")])
            case "digest":
                return Response(200, hashlib.sha256(request.body).hexdigest().encode())
            case "files":
                return self._file(rest)
            case "git":
                return await git.respond(self._run_dir / "git", request, f"/{rest}")
            case _:
                return _who_asked_whom(request)

    def _file(self, name: str) -> Response:
        file = self._run_dir / "www" / Path(name).name
        return Response(200, file.read_bytes()) if file.is_file() else Response(404, b"{}")


def _who_asked_whom(request: Request) -> Response:
    told = {name: getattr(request, name) for name in ("server", "client", "host", "path", "version", "sni")}
    if request.server == addresses.METADATA:
        told["secret"] = "the cloud's own metadata"
    return Response(200, json.dumps(told).encode())

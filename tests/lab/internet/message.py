"""A request and its answer, whatever carries them."""

from dataclasses import dataclass, field


@dataclass
class Request:
    """A request as it came. `host` is HTTP/2's `:authority`, too; `sni` is None without TLS."""

    server: str
    port: int
    client: str
    sni: str | None
    version: str
    method: str
    path: str
    host: str | None
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        return next((value for known, value in self.headers if known.lower() == name), None)


@dataclass
class Response:
    status: int
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=lambda: [("content-type", "application/json")])

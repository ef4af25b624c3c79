"""The fake internet's certification authority, made anew for every run, and what it has and has not signed.

`lab-ca.pem` is its certificate; `trust.pem` is that and what the machine trusts: the trust anchors of a server under
test, which would be the host's own.
"""

import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

from lab import addresses

_SYSTEM_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Certificates:
    """Makes them all in a folder, and picks one by the name a client asks for."""

    def __init__(self, run_dir: Path):
        self._folder = run_dir / "certificates"
        self._folder.mkdir()
        self._openssl(
            "req", "-x509", *_NEW_KEY, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Lab CA", "-days", "2"
        )
        authority = (self._folder / "ca.pem").read_text()
        (run_dir / "lab-ca.pem").write_text(authority)
        bundle = _SYSTEM_BUNDLE.read_text() if _SYSTEM_BUNDLE.exists() else ""
        (run_dir / "trust.pem").write_text(bundle + authority)
        self._good = self._context("good", self._signed("good", sorted(addresses.NAMES), days=2))
        self._by_name = {
            "h1.example.com": self._context("good", self._folder / "good.pem", protocols=["http/1.1"]),
            "expired.example.com": self._context("expired", self._signed("expired", ["expired.example.com"], days=-1)),
            "wrongname.example.com": self._context("wrong", self._signed("wrong", ["other.example.com"], days=2)),
            "selfsigned.example.com": self._context("self", self._self_signed("self", "selfsigned.example.com")),
        }
        for context in (self._good, *self._by_name.values()):
            context.sni_callback = self._choose

    def context(self) -> ssl.SSLContext:
        """For servers of all names. The connection's `asked_name` is what its client asked for."""
        return self._good

    def context_without_http2(self) -> ssl.SSLContext:
        return self._by_name["h1.example.com"]

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.asked_name = name  # type: ignore[attr-defined]
        if chosen := self._by_name.get(name or ""):
            connection.context = chosen

    def _context(self, key: str, certificate: Path, protocols: list[str] | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, self._folder / f"{key}.key")
        context.set_alpn_protocols(protocols or ["h2", "http/1.1"])
        return context

    def _signed(self, stem: str, names: list[str], days: int) -> Path:
        self._openssl("req", *_NEW_KEY, "-keyout", f"{stem}.key", "-out", f"{stem}.csr", "-subj", f"/CN={stem}")
        (self._folder / f"{stem}.cnf").write_text(f"subjectAltName={_alternatives(names)}\n")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-days", str(days), "-extfile", f"{stem}.cnf")
        self._openssl("x509", "-req", "-in", f"{stem}.csr", *signing, "-out", f"{stem}.pem")
        return self._folder / f"{stem}.pem"

    def _self_signed(self, stem: str, name: str) -> Path:
        made = ("-keyout", f"{stem}.key", "-out", f"{stem}.pem", "-subj", f"/CN={name}", "-days", "2")
        self._openssl("req", "-x509", *_NEW_KEY, *made, "-addext", f"subjectAltName={_alternatives([name])}")
        return self._folder / f"{stem}.pem"

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._folder, check=True, capture_output=True)


def _alternatives(names: list[str]) -> str:
    return ",".join(f"DNS:{name}" for name in names)


def asked_name(get_extra_info: Callable[[str], ssl.SSLObject | None]) -> str | None:
    """The SNI of a connection; None without TLS or without a name."""
    connection = get_extra_info("ssl_object")
    return getattr(connection, "asked_name", None) if connection else None

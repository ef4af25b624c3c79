"""Clients for a server: the SDK's and a browser's."""

import contextlib
import os
import ssl
from functools import cache
from urllib.parse import urlsplit

import httpx
from websockets.sync.client import ClientConnection, connect

from lab.sdk import Leap0Client, Leap0ConflictError, Leap0NotFoundError
from lab.server import Server
from lab.shared_tls import SharedTls
from lab.waiting import patience, wait_until


def sdk_client(server: Server) -> Leap0Client:
    """The official SDK's client, from what `leapbox env` prints."""
    exports = server.env()
    return Leap0Client(
        api_key=exports["LEAP0_API_KEY"],
        base_url=exports["LEAP0_BASE_URL"],
        sandbox_domain=exports["LEAP0_SANDBOX_DOMAIN"],
        timeout=patience(300),
    )


def api_client(server: Server) -> httpx.Client:
    """Plain HTTP to the control plane, with the key: for what the SDK has no method for, or would not send."""
    exports = server.env()
    headers = {"authorization": f"Bearer {exports['LEAP0_API_KEY']}"}
    return httpx.Client(base_url=exports["LEAP0_BASE_URL"], headers=headers, timeout=patience(60))


def web_client(server: Server, **options) -> httpx.Client:
    """HTTPS to sandboxes' hostnames: with the key unless `headers` says otherwise."""
    exports = server.env()
    options.setdefault("headers", {"authorization": f"Bearer {exports['LEAP0_API_KEY']}"})
    trusted = exports["SSL_CERT_FILE"]
    context = _context(trusted, os.stat(trusted).st_mtime_ns, options.get("http2", False))
    return httpx.Client(verify=context, timeout=patience(60), **options)


def trust(server: Server) -> ssl.SSLContext:
    """A TLS context that trusts what `leapbox env` says: the server's local CA among others.

    It is the caller's own, because httpx changes what a context offers: HTTP/2, or not.
    """
    return ssl.create_default_context(cafile=server.env()["SSL_CERT_FILE"])


def websocket(url: str, **options) -> ClientConnection:
    """A WebSocket to a sandbox's hostname (`wss://…`), trusting what the environment says."""
    # The client counts a close that is not answered in time as none.
    options.setdefault("close_timeout", patience(30))
    target = urlsplit(url)
    shared = SharedTls(target.hostname, target.port, options.get("open_timeout", patience(20)))
    # The client is told of no TLS, because it would do its own.
    return connect(target._replace(scheme="ws").geturl(), sock=shared, proxy=None, **options)


@cache
def _context(trusted: str, changed_ns: int, http2: bool) -> ssl.SSLContext:
    """The one of all browsers that offer the same versions of HTTP: to read a hundred certificates takes its time."""
    return ssl.create_default_context(cafile=trusted)


def delete_if_there(sandbox) -> None:
    """Deletes a sandbox that may be deleted already."""
    try:
        sandbox.delete()
    except Leap0NotFoundError:
        return


def delete_all(client: Leap0Client) -> None:
    """Deletes every sandbox and every snapshot of the client's organisation, in whatever state they are."""

    def all_are_gone() -> bool:
        for sandbox in client.sandboxes.list(page_size=100).items:
            # One in transition refuses now, and is asked again.
            with contextlib.suppress(Leap0NotFoundError, Leap0ConflictError):
                client.sandboxes.delete(sandbox.id)
        for snapshot in client.snapshots.list(page_size=100).items:
            with contextlib.suppress(Leap0NotFoundError):
                client.snapshots.delete(snapshot.id)
        return not client.sandboxes.list().items and not client.snapshots.list().items

    wait_until("every sandbox and snapshot is deleted", all_are_gone, timeout=60)

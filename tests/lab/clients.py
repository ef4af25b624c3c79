"""Clients for a server: the SDK's and a browser's."""

import ssl

import httpx

from lab.sdk import Leap0Client, Leap0NotFoundError
from lab.server import Server
from lab.waiting import patience


def sdk_client(server: Server) -> Leap0Client:
    """The official SDK's client, from what `leapbox env` prints."""
    exports = server.env()
    return Leap0Client(
        api_key=exports["LEAP0_API_KEY"],
        base_url=exports["LEAP0_BASE_URL"],
        sandbox_domain=exports["LEAP0_SANDBOX_DOMAIN"],
    )


def web_client(server: Server, **options) -> httpx.Client:
    """HTTPS to sandboxes' hostnames: with the key unless `headers` says otherwise."""
    exports = server.env()
    options.setdefault("headers", {"authorization": f"Bearer {exports['LEAP0_API_KEY']}"})
    return httpx.Client(verify=trust(server), timeout=patience(60), **options)


def trust(server: Server) -> ssl.SSLContext:
    """A TLS context that trusts what `leapbox env` says: the server's local CA among others."""
    return ssl.create_default_context(cafile=server.env()["SSL_CERT_FILE"])


def delete_if_there(sandbox) -> None:
    """Deletes a sandbox that may be deleted already."""
    try:
        sandbox.delete()
    except Leap0NotFoundError:
        return


def delete_all(client: Leap0Client) -> None:
    """Deletes every sandbox of the client's organisation."""
    while items := client.sandboxes.list(page_size=100, state="running").items:
        for item in items:
            client.sandboxes.delete(item.id)

"""A sandbox whose requests to some hosts get credentials that it never sees."""

import base64

from e2e.shared.egress import custom

# What must be nowhere but in the requests that reach those hosts.
SECRET = "sk-live-Zq8vT3nW0y-never-in-the-guest"
SECRET_BASIC = base64.b64encode(f"robot:{SECRET}".encode()).decode()
BEARER, BASIC = f"Bearer {SECRET}", f"Basic {SECRET_BASIC}"
STRIPPED = "X-Guest-Says"
BAD_CERTIFICATES = ("expired.example.com", "selfsigned.example.com", "wrongname.example.com")


def transform(domain: str, value: str = BEARER) -> dict:
    """Gives `Authorization` to one domain, and takes a header of the guest's own away."""
    return {"domain": domain, "inject_headers": {"Authorization": value}, "strip_headers": [STRIPPED]}


def policy() -> dict:
    """Credentials for each of the fake internet's hosts that want some, and an opaque way to www.example.com."""
    with_bearer = ("api.example.com", "h1.example.com", "ws.example.com", "private.example.com", *BAD_CERTIFICATES)
    brokered = [transform(domain) for domain in with_bearer]
    return custom("www.example.com", transforms=(*brokered, transform("git.example.com", BASIC)))


def values(seen: dict, name: str) -> list[str]:
    """What a server was told under one header name."""
    return [value for known, value in seen["headers"] if known.lower() == name.lower()]

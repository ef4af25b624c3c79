"""Keys and organisations: who may speak to the control plane, and what another organisation learns."""

import json
import os
from pathlib import Path

import httpx
import pytest

from lab import patience
from lab.sandboxes import sh, state_of
from lab.server import ROOT

UNKNOWN = "sbx-aaaaaaaaaaaaaaaaaaaa"
# What any route of a sandbox's takes. The parameters of a query are beside it.
BODY = {"command": "true", "path": "/tmp/x"}
LARGEST_SEARCHED = 64 << 20


@pytest.fixture(scope="module")
def stranger(server):
    """Plain HTTP with the key of another organisation."""
    with plain(server, authorization=server.create_key("stranger")) as made:
        yield made


def plain(server, **headers: str) -> httpx.Client:
    """HTTP to the control plane with these headers and no others, `_` standing for `-` in their names."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Client(base_url=f"http://{server.api_address}", headers=named, timeout=patience(60))


def operations() -> list[tuple[str, str]]:
    """Method and path of everything the API can do, as its document tells."""
    paths = json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def send(client: httpx.Client, method: str, path: str) -> httpx.Response:
    return client.request(method, path, params={"path": "/tmp/x"}, json=BODY if method == "POST" else None)


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer lbx_" + "a" * 43}], ids=["no key", "unknown key"])
def test_without_a_valid_key_every_operation_is_unauthorized(server, headers):
    with plain(server, **headers) as nobody:
        paths = [(method, path.replace("{id}", UNKNOWN)) for method, path in operations()]
        answers = {(method, path): send(nobody, method, path).status_code for method, path in paths}
    assert len(answers) >= 20 and answers == dict.fromkeys(answers, 401)


def test_the_platforms_header_wins_over_the_apps(server):
    key = server.env()["LEAP0_API_KEY"]
    for status, headers in [
        (200, {"authorization": key}),
        (200, {"leap0_authorization": f"Bearer {key}", "authorization": "Bearer app"}),
        (401, {"leap0_authorization": "wrong", "authorization": key}),
    ]:
        with plain(server, **headers) as client:
            assert client.get("/v1/sandboxes").status_code == status, headers


def test_case_31_another_organisations_sandbox_is_not_found_exactly_like_an_unknown_one(
    stranger, shared_sandbox, client
):
    tools = [(method, path) for method, path in operations() if path.startswith("/v1/sandbox/{id}")]
    assert len(tools) >= 15
    for method, path in tools:
        foreign = send(stranger, method, path.replace("{id}", shared_sandbox.id))
        unknown = send(stranger, method, path.replace("{id}", UNKNOWN))
        assert (foreign.status_code, unknown.status_code) == (404, 404), f"{method} {path}: {foreign.text}"
        assert foreign.text.replace(shared_sandbox.id, UNKNOWN) == unknown.text
    assert stranger.get("/v1/sandboxes").json() == {"items": [], "total_items": 0}
    assert state_of(client, shared_sandbox.id) == "running", "none of it has done anything"
    assert sh(shared_sandbox, "[ -e /tmp/x ] || echo unharmed") == "unharmed\n"


def test_case_31_another_organisations_key_opens_no_hostname_of_ours(stranger, shared_sandbox, web, app):
    headers = {"authorization": stranger.headers["authorization"]}
    foreign = web.get(app, headers=headers)
    unknown = web.get(app.replace(shared_sandbox.id, UNKNOWN), headers=headers)
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.text.replace(shared_sandbox.id, UNKNOWN) == unknown.text


def files_with(secret: bytes, folder: Path) -> list[Path]:
    """The files below a living server's data folder that have these bytes; what goes away meanwhile has not."""
    found = []
    for place, _, names in os.walk(folder):
        for file in (Path(place, name) for name in names):
            try:
                if file.is_file() and file.stat().st_size < LARGEST_SEARCHED and secret in file.read_bytes():
                    found.append(file)
            except FileNotFoundError:
                continue
    return found


def test_a_key_is_never_stored_readably(server):
    key = server.env()["LEAP0_API_KEY"]
    found = files_with(key.encode(), server.data_dir)
    # `leapbox env` prints it from a file that only its owner can read; no other file may have it.
    assert len(found) == 1, found
    assert found[0].stat().st_mode & 0o077 == 0
    assert key not in server.log.read_text()

"""Keys, organisations and the rate limit."""

import httpx
import pytest

from lab.sandboxes import sh, start_app

TOOLS = [
    ("GET", ""),
    ("DELETE", ""),
    ("GET", "/system/user-home-dir"),
    ("GET", "/system/workdir"),
    ("POST", "/process/execute"),
    ("POST", "/filesystem/ls"),
    ("POST", "/filesystem/stat"),
    ("POST", "/filesystem/mkdir"),
    ("POST", "/filesystem/write-file?path=/tmp/x"),
    ("POST", "/filesystem/read-file"),
    ("POST", "/filesystem/delete"),
    ("POST", "/filesystem/exists"),
]
UNKNOWN = "sbx-aaaaaaaaaaaaaaaaaaaa"
BODY = {"command": "true", "path": "/tmp/x"}


@pytest.fixture(scope="module")
def stranger(server):
    """Plain HTTP with the key of another organisation."""
    key = server.create_key("stranger")
    with httpx.Client(base_url=f"http://{server.api_address}", headers={"authorization": key}, timeout=60) as made:
        yield made


def send(client: httpx.Client, method: str, path: str) -> httpx.Response:
    return client.request(method, path, json=BODY if method == "POST" else None)


@pytest.mark.parametrize("value", [None, "", "Bearer lbx_nonsense", "Basic eDp5", "Bearer lbx_" + "a" * 43])
def test_without_a_valid_key_every_path_is_unauthorized(server, value):
    headers = {} if value is None else {"authorization": value}
    with httpx.Client(base_url=f"http://{server.api_address}", headers=headers) as nobody:
        for method, path in [("POST", "/v1/sandbox"), ("GET", "/v1/sandboxes"), ("GET", f"/v1/sandbox/{UNKNOWN}")]:
            answer = send(nobody, method, path)
            assert answer.status_code == 401, f"{method} {path}: {answer.status_code}"
            assert answer.json()["message"]


@pytest.mark.parametrize("header", ["authorization", "leap0-authorization"])
@pytest.mark.parametrize("form", ["{key}", "Bearer {key}", "bearer {key}"])
def test_the_key_is_taken_from_either_header_with_and_without_bearer(server, header, form):
    value = form.format(key=server.env()["LEAP0_API_KEY"])
    assert httpx.get(f"http://{server.api_address}/v1/sandboxes", headers={header: value}).status_code == 200


def test_the_platforms_header_wins_over_the_apps(server):
    key = server.env()["LEAP0_API_KEY"]
    url = f"http://{server.api_address}/v1/sandboxes"
    assert httpx.get(url, headers={"leap0-authorization": key, "authorization": "Bearer app"}).status_code == 200
    assert httpx.get(url, headers={"leap0-authorization": "wrong", "authorization": key}).status_code == 401


@pytest.mark.parametrize(("method", "tool"), TOOLS, ids=[f"{method} {tool or '/'}" for method, tool in TOOLS])
def test_case_31_another_organisations_sandbox_is_not_found_exactly_like_an_unknown_one(
    stranger, shared_sandbox, method, tool
):
    foreign = send(stranger, method, f"/v1/sandbox/{shared_sandbox.id}{tool}")
    unknown = send(stranger, method, f"/v1/sandbox/{UNKNOWN}{tool}")
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.text.replace(shared_sandbox.id, UNKNOWN) == unknown.text


def test_case_31_another_organisation_sees_none_of_ours_in_its_list(stranger, shared_sandbox):
    assert stranger.get("/v1/sandboxes").json() == {"items": [], "total_items": 0}


def test_case_31_another_organisations_key_opens_no_hostname_of_ours(stranger, shared_sandbox, web):
    url = start_app(shared_sandbox, web, port=8031)
    foreign = web.get(url, headers={"authorization": stranger.headers["authorization"]})
    unknown = web.get(
        url.replace(shared_sandbox.id, UNKNOWN), headers={"authorization": stranger.headers["authorization"]}
    )
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.text.replace(shared_sandbox.id, UNKNOWN) == unknown.text


def test_case_31_our_sandbox_was_not_harmed_by_any_of_it(shared_sandbox):
    assert sh(shared_sandbox, "echo alive") == "alive\n"


def test_a_key_is_never_stored_readably(server):
    key = server.env()["LEAP0_API_KEY"]
    holders = [file for file in server.data_dir.rglob("*") if file.is_file() and file.stat().st_size < 1 << 26]
    found = [file for file in holders if key.encode() in file.read_bytes()]
    # `leapbox env` prints it from a file that only its owner can read; no other file may have it.
    assert len(found) == 1, found
    assert found[0].stat().st_mode & 0o077 == 0
    assert key not in server.log.read_text()

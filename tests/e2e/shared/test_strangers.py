"""Paused, stopped and snapshotted: to another organisation, all of it does not exist. Case 31."""

import httpx
import pytest

from lab import patience
from lab.sandboxes import all_marks, leave_marks, marks, sh, state_of
from lab.sdk import Leap0Client, Leap0ConflictError

UNKNOWN = "snap-aaaaaaaaaaaaaaaaaaaa"


@pytest.fixture(scope="module")
def snapshot(server):
    """A snapshot whose name others will want, too."""
    with Leap0Client() as client:
        sandbox = client.sandboxes.create()
        leave_marks(sandbox, "ours")
        made = sandbox.create_snapshot(name="desired", kill_sandbox_after=True)
        yield made
        client.snapshots.delete(made)


@pytest.fixture(scope="module")
def stranger(server):
    """Plain HTTP with the key of another organisation."""
    headers = {"authorization": server.create_key("envious")}
    with httpx.Client(base_url=f"http://{server.api_address}", headers=headers, timeout=patience(60)) as made:
        yield made
        # Whatever has become of the tests: nobody else can delete what is another organisation's.
        for kind, one in (("sandboxes", "sandbox"), ("snapshots", "snapshot")):
            for item in made.get(f"/v1/{kind}").json()["items"]:
                made.delete(f"/v1/{one}/{item['id']}")


def test_case_31_another_organisations_snapshot_is_not_found_and_its_name_is_free(stranger, snapshot, client):
    for method, path, body in [
        ("DELETE", "/v1/snapshot/{id}", None),
        ("POST", "/v1/snapshot/restore", {"snapshot_name": "{name}"}),
    ]:
        body = body and {name: value.replace("{name}", snapshot.name) for name, value in body.items()}
        foreign = stranger.request(method, path.replace("{id}", snapshot.id), json=body)
        assert foreign.status_code == 404, foreign.text
    foreign, unknown = (stranger.delete(f"/v1/snapshot/{each}").text for each in (snapshot.id, UNKNOWN))
    assert foreign.replace(snapshot.id, UNKNOWN) == unknown
    assert stranger.get("/v1/snapshots").json() == {"items": [], "total_items": 0}
    own = stranger.post("/v1/sandbox", json={}).json()["id"]
    made = stranger.post(f"/v1/sandbox/{own}/snapshot/create", json={"name": snapshot.name})
    assert made.status_code == 201, "names are an organisation's own"
    restored = stranger.post("/v1/snapshot/restore", json={"snapshot_name": snapshot.name}).json()["id"]
    command = {"command": "cat /dev/shm/mark || echo nothing"}
    answer = stranger.post(f"/v1/sandbox/{restored}/process/execute", json=command).json()
    assert answer["stdout"] == "nothing\n", "it got its own, not ours"
    assert stranger.delete(f"/v1/snapshot/{made.json()['id']}").status_code == 204
    for sandbox_id in (own, restored):
        assert stranger.delete(f"/v1/sandbox/{sandbox_id}").status_code == 204
    assert client.snapshots.list(query=snapshot.name).total_items == 1


VERBS = {
    "get": ("GET", ""),
    "delete": ("DELETE", ""),
    "pause": ("POST", "/pause"),
    "stop": ("POST", "/stop"),
    "start": ("POST", "/start"),
    "snapshot": ("POST", "/snapshot/create"),
    "execute": ("POST", "/process/execute"),
    "ls": ("POST", "/filesystem/ls"),
    "workdir": ("GET", "/system/workdir"),
}


def test_case_31_every_verb_in_every_state_is_not_found_for_another_organisation(stranger, client, sandbox, api):
    leave_marks(sandbox, "unharmed")
    unknown = "sbx-aaaaaaaaaaaaaaaaaaaa"
    for state, change in (("running", None), ("paused", "pause"), ("stopped", "stop")):
        if change == "stop":
            assert marks(sandbox) == all_marks("unharmed")
        if change:
            assert api.post(f"/v1/sandbox/{sandbox.id}/{change}").is_success
        for verb, (method, path) in VERBS.items():
            body = {"command": "true", "path": "/tmp"} if method == "POST" else None
            foreign = stranger.request(method, f"/v1/sandbox/{sandbox.id}{path}", json=body)
            missing = stranger.request(method, f"/v1/sandbox/{unknown}{path}", json=body)
            assert (foreign.status_code, foreign.text.replace(sandbox.id, unknown)) == (404, missing.text), verb
            assert state_of(client, sandbox.id) == state, f"{verb} by a stranger changed it"
    with pytest.raises(Leap0ConflictError):
        sh(sandbox, "true")

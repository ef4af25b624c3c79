"""Every route looks at what it is asked and names what is wrong with it.

The tests of `crates/api` say which values are wrong. The ones here show that each route calls its validator.
"""

import pytest

# A request that no route takes, and the fields that its answer names. `{id}` is a running sandbox.
BAD_REQUESTS = [
    ("POST", "/v1/sandbox/{id}/process/execute", {"timeout": 0}, {"command", "timeout"}),
    ("POST", "/v1/sandbox/{id}/filesystem/ls", {}, {"path"}),
    ("POST", "/v1/sandbox/{id}/filesystem/stat", {}, {"path"}),
    ("POST", "/v1/sandbox/{id}/filesystem/exists", {}, {"path"}),
    ("POST", "/v1/sandbox/{id}/filesystem/delete", {"recursive": 1}, {"path", "recursive"}),
    ("POST", "/v1/sandbox/{id}/filesystem/mkdir", {"path": "/tmp/x", "permissions": "rwx"}, {"permissions"}),
    ("POST", "/v1/sandbox/{id}/filesystem/read-file", {"path": "/tmp/x", "head": 1, "tail": 1}, {"tail"}),
    ("POST", "/v1/sandbox/{id}/filesystem/write-file?permissions=rwx", {}, {"path", "permissions"}),
    ("POST", "/v1/sandbox/{id}/snapshot/create", {"name": ""}, {"name"}),
    ("POST", "/v1/snapshot/restore", {"timeout": 0}, {"snapshot_name", "timeout"}),
    ("GET", "/v1/snapshots?sort=size&page=0", None, {"sort", "page"}),
    ("GET", "/v1/sandboxes?state=asleep&page-size=101", None, {"state", "page-size"}),
    ("POST", "/v1/sandbox", {"template_name": "nobody/nothing:v1"}, {"template_name"}),
]

pytestmark = pytest.mark.usefixtures("server")


def bad_fields(response) -> set[str]:
    """The fields that a refusal names, each with what is wrong with it."""
    assert response.status_code == 400, response.text
    errors = response.json()["errors"]
    assert all(entry["error"] for entry in errors), errors
    return {entry["field"].split(".")[0] for entry in errors}


def test_every_bad_field_of_a_create_is_named_in_one_answer(api):
    body = {
        "vcpu": 9,
        "memory": 513,
        "timeout": 0,
        "template_name": "x" * 65,
        "env_vars": {"A": 1},
        "mounts": [{"bucket": "b"}],
        "network_policy": {"mode": "denied"},
    }
    assert bad_fields(api.post("/v1/sandbox", json=body)) == set(body)


def test_every_route_names_the_bad_fields_of_its_requests(api, shared_sandbox):
    named = {}
    for method, path, body, _ in BAD_REQUESTS:
        named[path] = bad_fields(api.request(method, path.replace("{id}", shared_sandbox.id), json=body))
    assert named == {path: fields for _, path, _, fields in BAD_REQUESTS}

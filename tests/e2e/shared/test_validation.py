"""What a request may say: every bad field is named at once, and nothing unsupported is accepted and ignored."""

import pytest

BAD_QUERIES = ["state=asleep", "sort=size", "order-by=up", "page=0", "page-size=101", "page-size=x"]

pytestmark = pytest.mark.usefixtures("server")


def bad_fields(response) -> set[str]:
    assert response.status_code == 400, response.text
    body = response.json()
    assert body["message"] == "Invalid request", body
    assert all(entry["error"] for entry in body["errors"]), body
    return {entry["field"] for entry in body["errors"]}


def test_every_bad_field_of_a_create_is_named_in_one_answer(api):
    answer = api.post("/v1/sandbox", json={"vcpu": 9, "memory": 513, "timeout": 0, "template_name": "x" * 65})
    assert bad_fields(answer) == {"vcpu", "memory", "timeout", "template_name"}


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("vcpu", [0, 9, -1, 1.5, "two"]),
        ("memory", [510, 511, 8194, 1025, "1 GiB"]),
        ("timeout", [0, 28801, -5]),
        ("template_name", ["", "   ", "x" * 65]),
        ("env_vars", [["A=B"], {"A": 1}, {"": "x"}, {"A=B": "x"}, {"A": "nul\0byte"}]),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_its_field_name(api, field, values):
    for value in values:
        answer = api.post("/v1/sandbox", json={field: value})
        assert any(name.split(".")[0] == field for name in bad_fields(answer)), (value, answer.text)


def test_a_field_that_is_not_supported_yet_is_refused_and_never_ignored(api):
    answer = api.post("/v1/sandbox", json={"mounts": [{"bucket": "b"}]})
    assert answer.status_code == 400, answer.text
    assert "mounts" in answer.text


def test_the_values_that_mean_nothing_special_are_accepted(api):
    answer = api.post("/v1/sandbox/", json={"auto_pause": False, "mounts": [], "network_policy": {"mode": "allow-all"}})
    assert answer.status_code == 201, answer.text
    assert api.delete(f"/v1/sandbox/{answer.json()['id']}").status_code == 204


def test_an_unknown_template_is_not_found(api):
    answer = api.post("/v1/sandbox", json={"template_name": "nobody/nothing:v1"})
    assert answer.status_code in (400, 404), answer.text
    assert "nobody/nothing:v1" in answer.text


def test_a_body_that_is_not_json_is_refused_with_a_message(api):
    answer = api.post("/v1/sandbox", content=b"{not json", headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["message"]


@pytest.mark.parametrize(
    "query", ["state=asleep", "sort=size", "order-by=up", "page=0", "page-size=101", "page-size=x"]
)
def test_a_bad_list_query_is_refused_by_its_parameter_name(api, query):
    assert bad_fields(api.get(f"/v1/sandboxes?{query}")) == {query.split("=")[0]}


def test_every_bad_list_parameter_is_named_in_one_answer(api):
    answer = api.get("/v1/sandboxes?state=asleep&sort=size&order-by=up&page=0&page-size=0")
    assert bad_fields(answer) == {"state", "sort", "order-by", "page", "page-size"}


@pytest.mark.parametrize(
    ("tool", "body", "field"),
    [
        ("process/execute", {}, "command"),
        ("process/execute", {"command": "true", "timeout": 0}, "timeout"),
        ("filesystem/ls", {}, "path"),
        ("filesystem/mkdir", {"path": "/tmp/x", "permissions": "rwx"}, "permissions"),
        ("filesystem/read-file", {"path": "/tmp/x", "head": 1, "tail": 1}, "tail"),
    ],
)
def test_a_tools_bad_field_is_named(api, shared_sandbox, tool, body, field):
    answer = api.post(f"/v1/sandbox/{shared_sandbox.id}/{tool}", json=body)
    assert answer.status_code == 400, answer.text
    assert field in answer.text


def test_a_path_that_does_not_exist_and_a_wrong_method_are_told_apart(api):
    assert api.get("/v1/nothing").status_code == 404
    assert api.put("/v1/sandboxes").status_code == 405

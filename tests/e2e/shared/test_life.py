"""The whole life of a sandbox through the unmodified SDK, sync and async, and both forms of each path."""

import json
import time
from datetime import datetime, timezone

import pytest

from lab import patience, wait_until
from lab.sandboxes import sh, start_app, state_of
from lab.sdk import Leap0NotFoundError
from lab.server import ROOT

OPENAPI = ROOT / "docs" / "openapi.json"
LIFE_S = 3


@pytest.mark.production_driver
def test_a_sandbox_lives_its_whole_life_with_the_sync_client(client, web):
    sandbox = client.sandboxes.create(vcpu=1, memory=1024, timeout=300, env_vars={"GREETING": "hello"})
    try:
        assert sandbox.id.startswith("sbx-")
        assert sandbox.state == "running"
        assert sh(sandbox, 'echo "$GREETING"') == "hello\n"
        sandbox.filesystem.write_file(path="/workspace/app.py", content="print(6 * 7)\n")
        assert sh(sandbox, "python3 /workspace/app.py") == "42\n"
        assert sandbox.filesystem.read_file(path="/workspace/app.py") == "print(6 * 7)\n"
        assert sandbox.get_user_home_dir() == "/home/user"
        assert sandbox.get_workdir() == "/home/user"
        url = start_app(sandbox, web)
        assert web.get(f"{url}/").text == "hello from the sandbox\n"
        assert sandbox.refresh().state == "running"
        assert sandbox.id in {item.id for item in client.sandboxes.list(state="running", page_size=100).items}
    finally:
        sandbox.delete()
    with pytest.raises(Leap0NotFoundError):
        client.sandboxes.get(sandbox.id)
    with pytest.raises(Leap0NotFoundError):
        sandbox.process.execute(command="true")
    assert sandbox.id not in {item.id for item in client.sandboxes.list(page_size=100).items}


async def test_a_sandbox_lives_its_whole_life_with_the_async_client(async_client):
    sandbox = await async_client.sandboxes.create(env_vars={"GREETING": "hello"})
    try:
        result = await sandbox.process.execute(command='echo "$GREETING"')
        assert (result.exit_code, result.stdout) == (0, "hello\n")
        await sandbox.filesystem.write_bytes(path="/tmp/raw", content=bytes(range(256)))
        assert await sandbox.filesystem.read_bytes(path="/tmp/raw") == bytes(range(256))
        assert await sandbox.filesystem.exists(path="/tmp/raw")
        assert await sandbox.get_workdir() == "/home/user"
        listed = await async_client.sandboxes.list()
        assert sandbox.id in {item.id for item in listed.items}
    finally:
        await sandbox.delete()
    with pytest.raises(Leap0NotFoundError):
        await async_client.sandboxes.get(sandbox.id)


def test_a_create_answers_the_contracts_fields_with_its_defaults(api):
    answer = api.post("/v1/sandbox/", json={"mounts": []})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    expected = {"vcpu": 1, "memory": 1024, "disk": 10240, "timeout": 300, "auto_pause": False, "state": "running"}
    assert {name: made[name] for name in expected} == expected
    assert made["template_id"].startswith("tpl-")
    assert made["network_policy"] == {"mode": "allow-all"}
    age = datetime.now(timezone.utc) - datetime.fromisoformat(made["created_at"].replace("Z", "+00:00"))
    assert abs(age.total_seconds()) < patience(60)
    got = api.get(f"/v1/sandbox/{made['id']}").json()
    assert {name: got[name] for name in expected} == expected
    assert api.delete(f"/v1/sandbox/{made['id']}/").status_code == 204
    assert api.delete(f"/v1/sandbox/{made['id']}").status_code == 404, "it is gone"


def test_every_path_is_served_with_and_without_its_trailing_slash(api, shared_sandbox):
    paths = [path.replace("{id}", shared_sandbox.id) for path in json.loads(OPENAPI.read_text())["paths"]]
    assert len(paths) >= 20, "the contract has that many"
    served = {form: api.patch(form).status_code for path in paths for form in (path, f"{path}/")}
    # No route takes PATCH. A path that is not served would be 404, and one that is served elsewhere 3xx.
    assert served == dict.fromkeys(served, 405)
    assert [api.get(f"/v1/nothing{slash}").status_code for slash in ("", "/")] == [404, 404]
    for form in ("/v1/sandboxes", "/v1/sandboxes/"):
        assert api.get(form).status_code == 200, form


def test_a_sandbox_of_another_shape_has_what_was_asked_for_and_the_calls_environment_on_top_of_its_own(client):
    own = {"KEPT": "kept", "REPLACED": "old"}
    sandbox = client.sandboxes.create(vcpu=2, memory=512, env_vars=own)
    try:
        assert sh(sandbox, "nproc") == "2\n"
        total_kib = int(sh(sandbox, "awk '/MemTotal/ {print $2}' /proc/meminfo"))
        # The kernel keeps some of it to itself.
        assert 400 * 1024 < total_kib <= 512 * 1024
        command = 'echo "$KEPT $REPLACED $ADDED"'
        assert sh(sandbox, command, env={"REPLACED": "new", "ADDED": "added"}) == "kept new added\n"
        assert sh(sandbox, command) == "kept old \n"
    finally:
        sandbox.delete()


def test_a_sandbox_is_deleted_at_its_timeout_and_not_before(client, api):
    started = time.monotonic()
    sandbox = client.sandboxes.create(timeout=LIFE_S)
    listed = api.get("/v1/sandboxes?page-size=100").json()["items"]
    (due,) = [item["timeout_at"] for item in listed if item["id"] == sandbox.id]
    # One that has failed would be shown as `deleted`.
    wait_until("the time-out deletes it", lambda: state_of(client, sandbox.id) == "unknown", timeout=LIFE_S + 15)
    assert time.monotonic() - started >= LIFE_S
    assert time.time() < due + patience(5)
    with pytest.raises(Leap0NotFoundError):
        sandbox.process.execute(command="true")


def test_the_list_tells_when_a_sandbox_times_out(api, shared_sandbox):
    items = {item["id"]: item for item in api.get("/v1/sandboxes?page-size=100").json()["items"]}
    item = items[shared_sandbox.id]
    assert item["pod_id"]
    assert 0 < item["timeout_at"] - time.time() <= 3600, json.dumps(item)

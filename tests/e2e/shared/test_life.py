"""The whole life of a sandbox through the unmodified SDK, sync and async, and both forms of each path."""

import json
import time
from datetime import datetime, timezone

import pytest

from lab import wait_until
from lab.sandboxes import sh, start_app
from lab.sdk import Leap0Error, Leap0NotFoundError


@pytest.mark.production_driver
def test_a_sandbox_lives_its_whole_life_with_the_sync_client(client, web):
    sandbox = client.sandboxes.create(vcpu=1, memory=1024, timeout=300, env_vars={"GREETING": "hello"})
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
    assert sandbox.id in {item.id for item in client.sandboxes.list(state="running").items}
    sandbox.delete()
    with pytest.raises(Leap0NotFoundError):
        client.sandboxes.get(sandbox.id)
    with pytest.raises(Leap0NotFoundError):
        sandbox.process.execute(command="true")
    assert sandbox.id not in {item.id for item in client.sandboxes.list(page_size=100).items}


async def test_a_sandbox_lives_its_whole_life_with_the_async_client(async_client):
    sandbox = await async_client.sandboxes.create(env_vars={"GREETING": "hello"})
    result = await sandbox.process.execute(command='echo "$GREETING"')
    assert (result.exit_code, result.stdout) == (0, "hello\n")
    await sandbox.filesystem.write_bytes(path="/tmp/raw", content=bytes(range(256)))
    assert await sandbox.filesystem.read_bytes(path="/tmp/raw") == bytes(range(256))
    assert await sandbox.filesystem.exists(path="/tmp/raw")
    assert await sandbox.get_workdir() == "/home/user"
    listed = await async_client.sandboxes.list()
    assert sandbox.id in {item.id for item in listed.items}
    await sandbox.delete()
    with pytest.raises(Leap0NotFoundError):
        await async_client.sandboxes.get(sandbox.id)


def test_a_create_answers_the_contracts_fields_with_its_defaults(api):
    answer = api.post("/v1/sandbox", json={})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    expected = {"vcpu": 1, "memory": 1024, "disk": 10240, "timeout": 300, "auto_pause": False, "state": "running"}
    assert {name: made[name] for name in expected} == expected
    assert made["template_id"].startswith("tpl-")
    assert made["network_policy"] == {"mode": "allow-all"}
    age = datetime.now(timezone.utc) - datetime.fromisoformat(made["created_at"].replace("Z", "+00:00"))
    assert abs(age.total_seconds()) < 60
    got = api.get(f"/v1/sandbox/{made['id']}").json()
    assert {name: got[name] for name in expected} == expected
    assert api.delete(f"/v1/sandbox/{made['id']}").status_code == 204


def test_every_path_is_served_with_and_without_its_trailing_slash(api, shared_sandbox):
    base = f"/v1/sandbox/{shared_sandbox.id}"
    for path in (base, f"{base}/system/user-home-dir", f"{base}/system/workdir", "/v1/sandboxes"):
        for form in (path, f"{path}/"):
            answer = api.get(form, follow_redirects=False)
            assert answer.status_code == 200, f"{form}: {answer.status_code}"
    for form in (f"{base}/process/execute", f"{base}/process/execute/"):
        assert api.post(form, json={"command": "true"}).status_code == 200
    for form in ("/v1/sandbox", "/v1/sandbox/"):
        made = api.post(form, json={})
        assert made.status_code == 201, f"{form}: {made.text}"
        assert api.delete(f"/v1/sandbox/{made.json()['id']}{'/' if form.endswith('/') else ''}").status_code == 204


def test_deleting_twice_is_not_found(client, api):
    sandbox = client.sandboxes.create()
    assert api.delete(f"/v1/sandbox/{sandbox.id}").status_code == 204
    assert api.delete(f"/v1/sandbox/{sandbox.id}").status_code == 404


def test_sandboxes_of_a_larger_shape_have_what_was_asked_for(client):
    sandbox = client.sandboxes.create(vcpu=2, memory=2048)
    try:
        assert sh(sandbox, "nproc") == "2\n"
        total_kib = int(sh(sandbox, "awk '/MemTotal/ {print $2}' /proc/meminfo"))
        assert 1800 * 1024 < total_kib <= 2048 * 1024
    finally:
        sandbox.delete()


def test_a_sandbox_is_deleted_at_its_timeout_and_not_before(client, api):
    started = time.monotonic()
    sandbox = client.sandboxes.create(timeout=4)
    assert client.sandboxes.get(sandbox.id).state == "running"

    def is_gone() -> bool:
        answer = api.get(f"/v1/sandbox/{sandbox.id}")
        assert answer.status_code == 404 or answer.json()["state"] == "deleted", answer.text
        return True

    wait_until("the sandbox is deleted by its timeout", is_gone, timeout=15)
    assert 3.5 <= time.monotonic() - started < 10
    with pytest.raises(Leap0Error) as refusal:
        sandbox.process.execute(command="true")
    assert refusal.value.status_code in (404, 409)


def test_the_list_tells_when_a_sandbox_times_out(api, shared_sandbox):
    items = {item["id"]: item for item in api.get("/v1/sandboxes?page-size=100").json()["items"]}
    item = items[shared_sandbox.id]
    assert item["pod_id"]
    assert 0 < item["timeout_at"] - time.time() <= 3600, json.dumps(item)

"""stop keeps the disk alone; start boots afresh over it."""

import time

import pytest

from lab import patience
from lab.clients import delete_if_there
from lab.footprint import vmm_pids
from lab.sandboxes import all_marks, leave_marks, marks, sh, start_app, state_of, vmm_pid
from lab.sdk import Leap0ConflictError

IDENTITY = "cat /proc/sys/kernel/random/boot_id /etc/machine-id"


class Sandbox:
    """A sandbox and the two verbs the SDK has no method for."""

    def __init__(self, api, made):
        self.api, self.made = api, made

    def post(self, verb: str) -> dict:
        answer = self.api.post(f"/v1/sandbox/{self.made.id}/{verb}")
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def stoppable(api, client):
    made = client.sandboxes.create(timeout=3600, env_vars={"GREETING": "hello"})
    yield Sandbox(api, made)
    delete_if_there(made)


@pytest.mark.production_driver
@pytest.mark.thorough
def test_a_stopped_sandbox_keeps_its_disk_and_environment_and_nothing_of_its_memory(client, stoppable, server):
    sandbox = stoppable.made
    leave_marks(sandbox, "kept")
    sh(
        sandbox,
        "sudo sh -c 'echo installed >/usr/local/share/thing'; dd if=/dev/urandom of=/home/user/big bs=64k count=64",
    )
    # Not synced: to stop is to shut down, not to pull the plug.
    big = sh(sandbox, "sha256sum ~/big; echo fresh >~/fresh")
    pid, identity = vmm_pid(server.data_dir, sandbox.id), sh(sandbox, IDENTITY)
    assert stoppable.post("stop")["state"] == "stopped"
    assert pid not in vmm_pids()
    assert client.sandboxes.get(sandbox.id).state == "stopped"
    started = stoppable.post("start")
    assert (started["state"], started["id"]) == ("running", sandbox.id)
    assert marks(sandbox) == {"memory": "", "disk": "kept", "process": ""}
    assert sh(sandbox, "cat /usr/local/share/thing ~/fresh") == "installed\nfresh\n"
    assert sh(sandbox, "sha256sum ~/big") == big
    assert sh(sandbox, 'echo "$GREETING"') == "hello\n"
    assert sh(sandbox, IDENTITY).split()[0] != identity.split()[0], "it has booted anew"
    asked = time.time()
    assert asked - 2 <= float(sh(sandbox, "date +%s.%N")) <= time.time() + 2


def test_a_started_sandbox_serves_pauses_wakes_and_is_snapshotted_like_any_other(client, stoppable, web):
    sandbox = stoppable.made
    stoppable.post("stop")
    stoppable.post("start")
    leave_marks(sandbox, "anew")
    url = start_app(sandbox, web)
    sandbox.pause()
    assert web.get(url).status_code == 200
    assert marks(sandbox) == all_marks("anew")
    snapshot = sandbox.create_snapshot()
    restored = client.snapshots.restore(snapshot_name=snapshot.name)
    assert marks(restored) == all_marks("anew")
    assert sh(restored, 'echo "$GREETING"') == "hello\n"
    restored.delete()
    client.snapshots.delete(snapshot)
    stoppable.post("stop")
    stoppable.post("start")
    assert marks(sandbox) == {"memory": "", "disk": "anew", "process": ""}


def test_what_a_state_does_not_allow_is_a_conflict_and_a_stopped_sandbox_is_deleted_as_it_is(
    client, stoppable, api, web
):
    sandbox = stoppable.made
    url = start_app(sandbox, web)

    def refused(verb: str) -> bool:
        return api.post(f"/v1/sandbox/{sandbox.id}/{verb}").status_code == 409

    assert refused("start") and state_of(client, sandbox.id) == "running"
    sandbox.pause()
    assert refused("stop") and refused("start") and state_of(client, sandbox.id) == "paused"
    assert web.get(url).status_code == 200
    stoppable.post("stop")
    with pytest.raises(Leap0ConflictError):
        sandbox.process.execute(command="true")
    answer = web.get(url)
    assert (answer.status_code, answer.headers["x-leapbox-error"]) == (409, "gateway")
    assert refused("stop") and refused("pause") and refused("snapshot/create")
    assert state_of(client, sandbox.id) == "stopped", "nothing of it started it"
    (item,) = [item for item in api.get("/v1/sandboxes?state=stopped").json()["items"] if item["id"] == sandbox.id]
    assert item.get("timeout_at") is None
    sandbox.delete()
    assert state_of(client, sandbox.id) == "unknown"


def test_a_full_disk_stops_and_starts(stoppable):
    sandbox = stoppable.made

    def free() -> int:
        return int(sh(sandbox, "df --output=avail -B1 /home/user | tail -1"))

    before = free()
    # The file system needs some of it for the file's own map.
    sh(sandbox, f"fallocate -l {before} ~/all || fallocate -l {before - 20_000_000} ~/all")
    filled = sandbox.process.execute(command="head -c 64000000 /dev/zero >~/rest", timeout=int(patience(120)))
    assert filled.exit_code != 0 and free() < 1_000_000, f"it is full: {filled}"
    stoppable.post("stop")
    stoppable.post("start")
    assert sh(sandbox, "rm ~/all ~/rest; echo room >~/room; cat ~/room") == "room\n"

"""Snapshots: made of a sandbox, listed, restored into new ones, deleted. Case 35."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab import patience, wait_until
from lab.clients import delete_if_there, websocket
from lab.sandboxes import all_marks, leave_marks, marks, sh, start_app, state_of
from lab.sdk import AsyncLeap0Client, Leap0Client, Leap0ConflictError, Leap0NotFoundError

UNKNOWN = "snap-aaaaaaaaaaaaaaaaaaaa"

IDENTITY = """
set -e
echo kernel-uuid $(cat /proc/sys/kernel/random/uuid)
echo urandom $(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n')
python3 -c 'import os, uuid; print("getrandom", os.getrandom(16).hex()); print("python-uuid", uuid.uuid4())'
echo machine-id $(cat /etc/machine-id)
echo boot-id $(cat /proc/sys/kernel/random/boot_id)
echo hostname $(hostname)
"""
KINDS = {"kernel-uuid", "urandom", "getrandom", "python-uuid", "machine-id", "boot-id", "hostname"}


def new_name(what: str = "test") -> str:
    return f"{what}-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def source(server):
    """A sandbox to take snapshots of; what is restored from them is another one."""
    with Leap0Client() as client:
        made = client.sandboxes.create(timeout=3600, env_vars={"GREETING": "hello"})
        leave_marks(made, "kept")
        yield made
        made.delete()


@pytest.fixture(scope="module")
def sleeping(server):
    """A paused sandbox: a snapshot of it is another name for what is stored, and costs nothing."""
    with Leap0Client() as client:
        made = client.sandboxes.create(timeout=3600)
        leave_marks(made, "slept")
        made.pause()
        yield made
        made.delete()


@pytest.fixture(scope="module")
def snapshot(source):
    made = source.create_snapshot(name=new_name("shared"))
    yield made
    with Leap0Client() as client:
        client.snapshots.delete(made)


@pytest.fixture
def restored(client, snapshot):
    made = client.snapshots.restore(snapshot_name=snapshot.name)
    yield made
    delete_if_there(made)


@pytest.mark.production_driver
@pytest.mark.thorough
def test_a_snapshot_has_memory_processes_and_disk_and_its_source_runs_on(client, source):
    sh(source, "echo at the snapshot >/dev/shm/when; cp /dev/shm/when ~/when")
    name = new_name()
    snapshot = source.create_snapshot(name=name)
    assert snapshot.id.startswith("snap-") and snapshot.name == name
    shape = (source.template_id, source.vcpu, source.memory, source.disk)
    assert (snapshot.template_id, snapshot.vcpu, snapshot.memory, snapshot.disk) == shape
    assert client.sandboxes.get(source.id).state == "running"
    assert marks(source) == all_marks("kept")
    sh(source, "echo later >/dev/shm/when; cp /dev/shm/when ~/when")

    restored = client.snapshots.restore(snapshot_name=name)
    assert restored.id not in (source.id, snapshot.id) and restored.state == "running"
    assert (restored.template_id, restored.vcpu, restored.memory, restored.disk) == shape
    assert (restored.timeout, restored.auto_pause) == (300, False)
    assert marks(restored) == all_marks("kept")
    assert sh(restored, 'cat /dev/shm/when ~/when; echo "$GREETING"') == "at the snapshot\nat the snapshot\nhello\n"
    assert sh(source, "cat /dev/shm/when ~/when") == "later\nlater\n", "a restored one does not touch its source"
    restored.delete()
    client.snapshots.delete(snapshot)
    assert marks(source) == all_marks("kept")


async def test_the_async_client_takes_lists_restores_and_deletes_snapshots(server):
    async with AsyncLeap0Client() as client:
        sandbox = await client.sandboxes.create()
        await sandbox.process.execute(command="echo kept >/dev/shm/word")
        snapshot = await sandbox.create_snapshot(name=new_name(), kill_sandbox_after=True)
        listed = await client.snapshots.list(query=snapshot.name)
        assert [item.id for item in listed.items] == [snapshot.id]
        restored = await client.snapshots.restore(snapshot_name=snapshot.name)
        assert (await restored.process.execute(command="cat /dev/shm/word")).stdout == "kept\n"
        await restored.delete()
        await client.snapshots.delete(snapshot.id)
        assert (await client.snapshots.list(query=snapshot.name)).total_items == 0


def test_a_connection_through_the_gateway_outlives_a_snapshot(client, source, web, key):
    url = start_app(source, web, port=8020)
    url, headers = url.replace("https://", "wss://") + "/ws", {"authorization": key}
    with websocket(url, additional_headers=headers, open_timeout=patience(30)) as socket_:
        socket_.send("before")
        assert socket_.recv(timeout=patience(30)) == "before"
        snapshot = source.create_snapshot(name=new_name())
        socket_.send("after")
        assert socket_.recv(timeout=patience(30)) == "after"
    client.snapshots.delete(snapshot)


def test_without_a_name_one_is_generated_that_can_be_restored(client, sleeping):
    first, second = sleeping.create_snapshot(), sleeping.create_snapshot()
    assert (first.name, second.name) == (first.id, second.id)
    restored = client.snapshots.restore(snapshot_name=second.name)
    assert marks(restored) == all_marks("slept")
    restored.delete()
    for made in (first, second):
        client.snapshots.delete(made.id)


def test_a_taken_name_is_a_conflict_and_free_again_after_the_delete(client, source, sleeping):
    name = new_name()
    first = sleeping.create_snapshot(name=name)
    for sandbox, state in ((source, "running"), (sleeping, "paused")):
        with pytest.raises(Leap0ConflictError):
            sandbox.create_snapshot(name=name)
        assert client.sandboxes.get(sandbox.id).state == state
    assert [item.id for item in client.snapshots.list(query=name).items] == [first.id]
    client.snapshots.delete(first)
    client.snapshots.delete(sleeping.create_snapshot(name=name))


def test_of_many_who_want_the_same_name_at_once_one_gets_it(client, source, sleeping):
    name = new_name()

    def take(sandbox):
        try:
            return sandbox.create_snapshot(name=name)
        except Leap0ConflictError:
            return None

    with ThreadPoolExecutor(3) as pool:
        taken = [made for made in pool.map(take, (source, sleeping, sleeping)) if made]
    assert len(taken) == 1 and client.snapshots.list(query=name).total_items == 1
    client.snapshots.delete(taken[0])
    assert marks(source) == all_marks("kept")
    assert client.sandboxes.get(sleeping.id).state == "paused"


def test_kill_sandbox_after_leaves_the_snapshot_alone(client):
    sandbox = client.sandboxes.create()
    leave_marks(sandbox, "last")
    snapshot = sandbox.create_snapshot(name=new_name(), kill_sandbox_after=True)
    # "deleted" would be one that has failed.
    assert state_of(client, sandbox.id) == "unknown"
    restored = client.snapshots.restore(snapshot_name=snapshot.name)
    assert marks(restored) == all_marks("last")
    client.snapshots.delete(snapshot)
    restored.delete()


@pytest.mark.production_driver
@pytest.mark.thorough
def test_a_snapshot_of_a_paused_sandbox_leaves_it_paused_and_both_live(client):
    sandbox = client.sandboxes.create()
    leave_marks(sandbox, "slept")
    sandbox.pause()
    snapshot = sandbox.create_snapshot(name=new_name())
    assert client.sandboxes.get(sandbox.id).state == "paused"
    restored = client.snapshots.restore(snapshot_name=snapshot.name)
    assert marks(restored) == marks(sandbox) == all_marks("slept")
    sandbox.delete()
    again = client.snapshots.restore(snapshot_name=snapshot.name)
    assert marks(again) == all_marks("slept"), "the snapshot does not need the sandbox it was taken of"
    client.snapshots.delete(snapshot)
    assert marks(again) == all_marks("slept"), "nor a restored one the snapshot"
    restored.delete()
    again.delete()


def test_a_restore_may_override_timeout_and_auto_pause(client, snapshot):
    begun = time.monotonic()
    restored = client.snapshots.restore(snapshot_name=snapshot.name, timeout=3, auto_pause=True)
    assert (restored.timeout, restored.auto_pause) == (3, True)
    wait_until("it is paused at its own timeout", lambda: state_of(client, restored.id) == "paused")
    assert time.monotonic() - begun >= 3
    assert marks(restored) == all_marks("kept")
    restored.delete()


def test_a_restored_sandbox_pauses_wakes_and_is_snapshotted_like_any_other(client, restored):
    restored.pause()
    assert marks(restored) == all_marks("kept")
    second = restored.create_snapshot(name=new_name())
    twice = client.snapshots.restore(snapshot_name=second.name)
    assert marks(twice) == all_marks("kept")
    twice.delete()
    client.snapshots.delete(second)


def test_case_35_sandboxes_restored_of_one_snapshot_have_randomness_and_identity_of_their_own(client, source, snapshot):
    count = 3
    with ThreadPoolExecutor(count) as pool:
        made = list(pool.map(lambda _: client.snapshots.restore(snapshot_name=snapshot.name), range(count)))
        try:
            printed = list(pool.map(lambda box: sh(box, IDENTITY, timeout=int(patience(60))), [source, *made]))
        finally:
            list(pool.map(delete_if_there, made))
    identities = [dict(line.split(" ", 1) for line in text.split("\n") if line) for text in printed]
    for kind in KINDS:
        values = [identity[kind] for identity in identities]
        assert all(values) and len(set(values)) == count + 1, f"{kind} is shared: {sorted(values)}"


def test_deleted_or_unknown_snapshots_are_not_found(client, sleeping):
    snapshot = sleeping.create_snapshot(name=new_name())
    client.snapshots.delete(snapshot)
    for gone in (snapshot.id, UNKNOWN, "no id at all"):
        with pytest.raises(Leap0NotFoundError):
            client.snapshots.delete(gone)
    with pytest.raises(Leap0NotFoundError):
        client.snapshots.restore(snapshot_name=snapshot.name)


def test_lists_are_paged_sorted_and_searched(client, sleeping, api):
    word, made = new_name("find"), []
    try:
        for letter in "abc":
            made.append(sleeping.create_snapshot(name=f"{word}-{letter}_100%"))
            # The order is that of milliseconds.
            taken = time.time()
            wait_until("a later millisecond", lambda: time.time() > taken + 0.002, interval=0.002)
        newest_first = [item.name for item in client.snapshots.list(query=word).items]
        assert newest_first == [snapshot.name for snapshot in made][::-1]
        oldest_first = client.snapshots.list(query=word, order_by="asc", sort="created_at").items
        assert [item.id for item in oldest_first] == [snapshot.id for snapshot in made]
        pages = [client.snapshots.list(query=word, page=page, page_size=2) for page in (1, 2, 3)]
        assert [item.name for page in pages for item in page.items] == newest_first
        assert {page.total_items for page in pages} == {3}
        assert client.snapshots.list(query=f"{word}-b", sort="template_id").total_items == 1
        assert client.snapshots.list(query="_100%").total_items == 3, "no character of it is a pattern"
        assert client.snapshots.list(query=f"{word}%a").total_items == 0
        (item,) = client.snapshots.list(query=f"{word}-b").items
        assert item == made[1]
        for bad in ("sort=name", "order-by=up", "page=0", "page-size=101", f"query={'x' * 65}"):
            assert api.get(f"/v1/snapshots?{bad}").status_code == 400, bad
    finally:
        for snapshot in made:
            client.snapshots.delete(snapshot)


def test_a_bad_field_is_named(api, source):
    for path, body, field in (
        (f"/v1/sandbox/{source.id}/snapshot/create", {"name": 7}, "name"),
        ("/v1/snapshot/restore", {"snapshot_name": "x", "timeout": 0}, "timeout"),
    ):
        answer = api.post(path, json=body)
        assert answer.status_code == 400, answer.text
        assert [error["field"] for error in answer.json()["errors"]] == [field]

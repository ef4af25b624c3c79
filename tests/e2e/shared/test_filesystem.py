"""filesystem/*: each operation once by the SDK, and errors that keep their meaning.

What the agent does with files is tested without a guest, in `bin/leapbox-agent/tests/through_the_client.rs`.
"""

import os
import time

import pytest

from lab import patience
from lab.sandboxes import sh
from lab.sdk import Leap0ConflictError, Leap0Error, Leap0NotFoundError, Leap0PermissionError

BODY_MAX = 10 * 1024 * 1024


@pytest.fixture
def files(shared_sandbox):
    return shared_sandbox.filesystem


@pytest.fixture
def folder(shared_sandbox, request):
    path = f"/tmp/{request.node.name[:60]}"
    shared_sandbox.filesystem.mkdir(path=path)
    return path


def test_bytes_come_back_as_they_went_in_whole_and_in_parts(files, folder):
    content = os.urandom(3 * 1024 * 1024)
    files.write_bytes(path=f"{folder}/blob", content=content)
    assert files.read_bytes(path=f"{folder}/blob") == content
    files.write_file(path=f"{folder}/lines", content="one\ntwo\nthree\nfour\n")
    assert files.read_file(path=f"{folder}/lines", offset=4, limit=3) == "two"
    assert files.read_file(path=f"{folder}/lines", head=2) == "one\ntwo\n"
    assert files.read_file(path=f"{folder}/lines", tail=2) == "three\nfour\n"


def test_an_empty_file_and_a_strange_name_are_files_too(files, folder):
    names = {"empty", "with space", "ünï©ødé", "a'quote\"d", "new\nline"}
    for name in names:
        files.write_file(path=f"{folder}/{name}", content="")
        assert files.read_bytes(path=f"{folder}/{name}") == b""
    assert {item.name for item in files.ls(path=folder).items} == names


def test_a_written_file_belongs_to_the_user_and_has_the_permissions_asked_for(files, folder, shared_sandbox):
    files.write_file(path=f"{folder}/script", content="#!/bin/sh\n", permissions="0750")
    info = files.stat(path=f"{folder}/script")
    assert (info.name, info.path, info.size, info.is_dir) == ("script", f"{folder}/script", 10, False)
    assert (info.owner, info.group, info.mode.lstrip("0")) == ("user", "user", "750")
    assert abs(info.mtime - time.time()) < patience(30)
    sh(shared_sandbox, f"ln -s /etc/hostname '{folder}/link'")
    link = files.stat(path=f"{folder}/link")
    assert link.is_symlink and link.link_target == "/etc/hostname"
    files.write_file(path="note", content="here")
    assert sh(shared_sandbox, "cat /home/user/note") == "here", "relative paths begin in the working directory"


def test_folders_are_made_listed_and_deleted(files, folder):
    files.mkdir(path=f"{folder}/mine", permissions="700")
    info = files.stat(path=f"{folder}/mine")
    assert info.is_dir and info.mode.lstrip("0") == "700"
    files.mkdir(path=f"{folder}/a/b", recursive=True)
    files.write_file(path=f"{folder}/a/b/leaf", content="x")
    files.write_file(path=f"{folder}/a/skipped.log", content="x")
    assert {item.name for item in files.ls(path=folder).items} == {"a", "mine"}
    below = {item.path for item in files.ls(path=f"{folder}/a", recursive=True, exclude=["*.log"]).items}
    assert below == {f"{folder}/a/b", f"{folder}/a/b/leaf"}
    with pytest.raises(Leap0Error) as refusal:
        files.delete(path=f"{folder}/a")
    assert refusal.value.status_code == 400, "a full folder"
    assert files.exists(path=f"{folder}/a/b/leaf")
    files.delete(path=f"{folder}/a", recursive=True)
    assert not files.exists(path=f"{folder}/a")


def test_an_error_inside_the_sandbox_keeps_its_meaning(files, folder):
    nowhere = f"{folder}/nowhere"
    for attempt in (files.read_bytes, files.stat, files.ls, files.delete):
        with pytest.raises(Leap0NotFoundError):
            attempt(path=nowhere)
    with pytest.raises(Leap0NotFoundError):
        files.mkdir(path=f"{nowhere}/below")
    with pytest.raises(Leap0PermissionError):
        files.read_file(path="/etc/shadow")
    with pytest.raises(Leap0PermissionError):
        files.write_file(path="/etc/passwd", content="x")
    with pytest.raises(Leap0PermissionError):
        files.mkdir(path="/usr/share/mine")
    with pytest.raises(Leap0ConflictError):
        files.mkdir(path=folder)
    with pytest.raises(Leap0Error) as refusal:
        files.read_file(path=folder)
    assert refusal.value.status_code == 400, "a folder is not read"


def test_a_body_over_ten_mebibytes_is_refused(api, shared_sandbox):
    url = f"/v1/sandbox/{shared_sandbox.id}/filesystem/write-file?path=/tmp/big"
    assert api.post(url, content=b"x" * (BODY_MAX + 1)).status_code == 413

"""filesystem/*: files in and out, and errors that keep their meaning."""

import os
import time

import pytest

from lab.sandboxes import sh
from lab.sdk import Leap0ConflictError, Leap0Error, Leap0NotFoundError, Leap0PermissionError


@pytest.fixture
def files(shared_sandbox):
    return shared_sandbox.filesystem


@pytest.fixture
def folder(shared_sandbox, request):
    path = f"/tmp/{request.node.name[:60]}"
    shared_sandbox.filesystem.mkdir(path=path)
    return path


def test_bytes_come_back_as_they_went_in(files, folder):
    content = os.urandom(3 * 1024 * 1024)
    files.write_bytes(path=f"{folder}/blob", content=content)
    assert files.read_bytes(path=f"{folder}/blob") == content


def test_an_empty_file_and_a_strange_name_are_files_too(files, folder):
    for name in ("empty", "with space", "ünï©ødé", "a'quote\"d", "new\nline"):
        files.write_file(path=f"{folder}/{name}", content="")
        assert files.read_bytes(path=f"{folder}/{name}") == b""
    assert len(files.ls(path=folder).items) == 5


def test_parts_of_a_file_are_read_by_bytes_and_by_lines(files, folder):
    files.write_file(path=f"{folder}/lines", content="one\ntwo\nthree\nfour\n")
    assert files.read_file(path=f"{folder}/lines", offset=4, limit=3) == "two"
    assert files.read_file(path=f"{folder}/lines", head=2) == "one\ntwo\n"
    assert files.read_file(path=f"{folder}/lines", tail=2) == "three\nfour\n"


def test_a_written_file_belongs_to_the_user_and_has_the_permissions_asked_for(files, folder):
    files.write_file(path=f"{folder}/script", content="#!/bin/sh\n", permissions="0750")
    info = files.stat(path=f"{folder}/script")
    assert (info.name, info.path, info.size, info.is_dir) == ("script", f"{folder}/script", 10, False)
    assert (info.owner, info.group) == ("user", "user")
    assert info.mode.lstrip("0") == "750"
    assert abs(info.mtime - time.time()) < 30


def test_a_listing_shows_one_level_or_all_of_them(files, folder):
    files.mkdir(path=f"{folder}/a/b", recursive=True)
    files.write_file(path=f"{folder}/a/b/leaf", content="x")
    files.write_file(path=f"{folder}/a/skipped.log", content="x")
    assert [item.name for item in files.ls(path=folder).items] == ["a"]
    below = {item.path for item in files.ls(path=folder, recursive=True, exclude=["*.log"]).items}
    assert below == {f"{folder}/a", f"{folder}/a/b", f"{folder}/a/b/leaf"}


def test_a_symbolic_link_is_shown_as_one(files, folder, shared_sandbox):
    sh(shared_sandbox, f"ln -s /etc/hostname '{folder}/link'")
    info = files.stat(path=f"{folder}/link")
    assert info.is_symlink and info.link_target == "/etc/hostname"


def test_deleting_a_full_folder_must_be_asked_for(files, folder):
    files.mkdir(path=f"{folder}/full")
    files.write_file(path=f"{folder}/full/file", content="x")
    with pytest.raises(Leap0Error) as refusal:
        files.delete(path=f"{folder}/full")
    assert refusal.value.status_code in (400, 409)
    files.delete(path=f"{folder}/full", recursive=True)
    assert not files.exists(path=f"{folder}/full")


def test_a_missing_path_is_not_found(files, folder):
    nowhere = f"{folder}/nowhere"
    for attempt in (files.read_bytes, files.stat, files.ls, files.delete):
        with pytest.raises(Leap0NotFoundError):
            attempt(path=nowhere)
    assert not files.exists(path=nowhere)


def test_what_the_user_may_not_read_or_write_is_a_permission_error(files):
    with pytest.raises(Leap0PermissionError):
        files.read_file(path="/etc/shadow")
    with pytest.raises(Leap0PermissionError):
        files.write_file(path="/etc/passwd", content="x")
    with pytest.raises(Leap0PermissionError):
        files.mkdir(path="/usr/share/mine")


def test_a_folder_that_is_there_already_is_a_conflict(files, folder):
    with pytest.raises(Leap0ConflictError):
        files.mkdir(path=folder)


def test_reading_a_folder_says_it_is_one(files, folder):
    with pytest.raises(Leap0Error, match="is a directory"):
        files.read_file(path=folder)


def test_a_folder_is_made_with_its_permissions(files, folder):
    files.mkdir(path=f"{folder}/mine", permissions="700")
    info = files.stat(path=f"{folder}/mine")
    assert info.is_dir and info.mode.lstrip("0") == "700"
    with pytest.raises(Leap0NotFoundError):
        files.mkdir(path=f"{folder}/x/y/z")


def test_a_home_relative_path_and_an_absolute_one_are_both_understood(files, shared_sandbox):
    files.write_file(path="/home/user/note", content="here")
    assert sh(shared_sandbox, "cat note") == "here"


def test_a_body_over_ten_mebibytes_is_refused_and_one_below_is_not(api, shared_sandbox):
    url = f"/v1/sandbox/{shared_sandbox.id}/filesystem/write-file?path=/tmp/big"
    assert api.post(url, content=b"x" * (10 * 1024 * 1024)).status_code == 204
    assert api.post(url, content=b"x" * (11 * 1024 * 1024)).status_code == 413

"""`leapbox doctor` on the real host: what weakens isolation is flagged, and nothing is refused for it. Case 9."""

import json
from pathlib import Path

import pytest

from lab import Server, current
from lab.sandboxes import sh

# The brief run in the KVM test host has a step of its own that runs `leapbox doctor`.
pytestmark = [pytest.mark.production_driver, pytest.mark.thorough]

ISOLATION = ("SMT", "KSM", "swap", "CPU mitigations")


def read(path: str) -> str | None:
    file = Path(path)
    return file.read_text().strip() if file.exists() else None


def is_weak(name: str) -> bool:
    """The same question, asked of the host in another way."""
    if name == "SMT":
        return read("/sys/devices/system/cpu/smt/active") != "0"
    if name == "KSM":
        return read("/sys/kernel/mm/ksm/run") == "1"
    if name == "swap":
        return any(
            not area.startswith(("/dev/zram", "/dev/dm-"))
            for area in Path("/proc/swaps").read_text().split("\n")[1:]
            if area
        )
    states = [file.read_text() for file in Path("/sys/devices/system/cpu/vulnerabilities").glob("*")]
    return not states or any("vulnerable" in state.lower() for state in states)


def test_case_9_settings_that_weaken_isolation_are_flagged_with_advice_and_stop_nothing(server, client):
    done = server.run("doctor", "--json")
    report = json.loads(done.stdout)
    checks = {check["name"]: check for check in report["checks"]}
    for name in ISOLATION:
        check = checks[name]
        assert check["level"] in ("green", "yellow"), "flagged, never refused"
        if is_weak(name):
            assert check["level"] == "yellow", check
        assert bool(check.get("advice")) == (check["level"] == "yellow"), check
    red = [check for check in report["checks"] if check["level"] == "red"]
    assert (done.returncode == 0) == report["ok"] == (not red), red
    made = client.sandboxes.create()
    try:
        assert sh(made, "echo fine") == "fine\n", "the server runs on"
    finally:
        made.delete()


def found_in(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Everything below a folder, and when and how it was changed last."""
    paths = [folder, *folder.rglob("*")]
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size, path.lstat().st_mode) for path in paths}


def test_case_9_doctor_changes_nothing():
    # Of a server that does not run, so that nobody else changes anything.
    still = Server(current().run_dir / "looked-at").setup()
    before = found_in(still.data_dir)
    assert len(before) > 1
    assert json.loads(still.run("doctor", "--json").stdout)["checks"]
    still.run("doctor")
    assert found_in(still.data_dir) == before

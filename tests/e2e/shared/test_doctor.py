"""`leapbox doctor` on the real host: what weakens isolation is flagged, and nothing is refused for it. Case 9."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.production_driver

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


def test_case_9_settings_that_weaken_isolation_are_flagged_with_advice(server):
    done = server.run("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    for name in ISOLATION:
        check = checks[name]
        assert check["level"] in ("green", "yellow"), "flagged, never refused"
        if is_weak(name):
            assert check["level"] == "yellow", check
        assert bool(check.get("advice")) == (check["level"] == "yellow"), check


def test_case_9_the_exit_status_says_whether_sandboxes_can_run_and_not_how_tight_the_host_is(server):
    report = json.loads(server.run("doctor", "--json").stdout)
    red = [check for check in report["checks"] if check["level"] == "red"]
    told = server.run("doctor")
    assert (told.returncode == 0) == report["ok"] == (not red), red
    assert not {check["name"] for check in red} & set(ISOLATION)
    for check in report["checks"]:
        assert check["name"] in told.stdout
        if advice := check.get("advice"):
            assert f"→ {advice}" in told.stdout


def test_case_9_doctor_changes_nothing_and_the_server_runs_on(server, client):
    files = {str(path) for path in server.data_dir.rglob("*")}
    server.run("doctor")
    gone = files - {str(path) for path in server.data_dir.rglob("*")}
    assert not {
        path for path in gone if "leapbox.db" not in path and "/machines/" not in path and "/disks/" not in path
    }
    made = client.sandboxes.create()
    assert made.process.execute(command="echo fine").stdout == "fine\n"
    made.delete()

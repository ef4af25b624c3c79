"""What `leapbox-bench` measures of creates and idle sandboxes, held to what SPECIFICATION.md promises."""

import json
import os
import subprocess

import pytest

from lab import current
from lab.server import ARTIFACTS, BINARY

pytestmark = [pytest.mark.production_driver, pytest.mark.thorough]

BENCH = BINARY.with_name("leapbox-bench")
# First answer of a restored create beside the floor, on the CPU itself. Under emulation `make bench` shows that ratio:
# there this test runs beside other labs, where one of two times may be anything.
RATIO = 1.5
# MiB of an idle sandbox's own, with and without virtualisation.
OWN_MIB = {True: 8, False: 64}
# Nothing runs beside the tests in the KVM test host.
IS_KVM_HOST = os.environ.get("LEAPBOX_DRIVER") == "firecracker"
# Creates that are measured, and idle sandboxes: enough for a median, or as few as the bench takes.
RUNS, IDLE = (9, 10) if IS_KVM_HOST else (3, 4)


@pytest.mark.timeout(900)
def test_a_restored_create_is_near_the_floor_and_an_idle_sandbox_small():
    folder = current().run_dir / "bench"
    arguments = ["--parts", "create", "--runs", str(RUNS), "--burst", "1", "--idle", str(IDLE), "--json"]
    folders = ["--data-dir", str(folder), "--artifacts-dir", str(ARTIFACTS)]
    run = subprocess.run([BENCH, *arguments, *folders], capture_output=True, text=True, env=os.environ)
    assert run.returncode == 0, run.stderr
    print(run.stdout)
    measured = json.loads(run.stdout)
    idle = measured["idle"]
    assert idle["sandboxes"] == IDLE and idle["all_answered"]
    assert idle["private_mib_max"] <= OWN_MIB[measured["virtualised"]], f"{idle['private_mib_max']:.1f} MiB"
    ratio = measured["restored_first_answer"]["p50_ms"] / measured["floor"]["p50_ms"]
    assert ratio <= RATIO or not IS_KVM_HOST, f"{ratio:.2f} times the floor"

"""Many sandboxes at once, with and without policies. The server fixture checks that nothing is left behind."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e.shared.egress import DENY_ALL, custom
from lab import addresses
from lab.clients import sdk_client
from lab.footprint import private_bytes
from lab.reach import http, reach
from lab.sandboxes import sh, vmm_pid

# The product's default: creates at once find clones that are ready, and others that are just being made.
SETTINGS = {"LEAPBOX_POOL_SIZE": "16"}
SANDBOXES = 30
BURST = 20
# What an idle sandbox may have of its own under emulation.
OWN_MIB = 64
MIB = 1024 * 1024


def test_twenty_creates_at_once_all_succeed(server):
    with sdk_client(server) as client, ThreadPoolExecutor(BURST) as pool:
        sandboxes = list(pool.map(lambda _: client.sandboxes.create(), range(BURST)))
        assert len({sandbox.id for sandbox in sandboxes}) == BURST
        answers = list(pool.map(lambda sandbox: sh(sandbox, "echo hello", timeout=60), sandboxes))
        assert answers == ["hello\n"] * BURST
        list(pool.map(lambda sandbox: sandbox.delete(), sandboxes))


def host_rules() -> int:
    """How many rules the host's network namespace has, in all tables."""
    listed = subprocess.run(["nft", "-j", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    return sum("rule" in entry for entry in json.loads(listed)["nftables"])


def policy_of(number: int) -> dict:
    """No two alike."""
    match number % 3:
        case 0:
            return custom("example.com", f"*.n{number}.example.com")
        case 1:
            return custom(cidrs=(f"{addresses.EXAMPLE_NET}/32", f"9.9.{number}.0/24"))
        case _:
            return DENY_ALL


def reached_by(sandbox) -> set[str]:
    """Which of two servers answer it, of which its policy may allow one by name and one by address."""
    found = reach(sandbox, name=http("example.com"), address=http("whatever", address=addresses.EXAMPLE_NET))
    return {answer.server for answer in found.values()} - {None}


@pytest.mark.timeout(900)
def test_thirty_idle_sandboxes_under_policies_all_answer_and_cost_little_memory_and_no_rules(server):
    with sdk_client(server) as client, ThreadPoolExecutor(4) as pool:

        def create(number: int):
            return client.sandboxes.create(timeout=1800, network_policy=policy_of(number))

        first = create(0)
        rules = host_rules()
        sandboxes = [first, *pool.map(create, range(1, SANDBOXES))]
        assert host_rules() == rules, "addresses are in sets"
        assert list(pool.map(lambda sandbox: sh(sandbox, "echo hello"), sandboxes)) == ["hello\n"] * SANDBOXES
        costs = [private_bytes(vmm_pid(server.data_dir, sandbox.id)) / MIB for sandbox in sandboxes]
        print(f"private memory of an idle sandbox: {min(costs):.0f} to {max(costs):.0f} MiB")
        assert max(costs) <= OWN_MIB, sorted(costs)
        looked_at = (0, 1, 2, SANDBOXES - 3, SANDBOXES - 2, SANDBOXES - 1)
        expected = ({addresses.EXAMPLE_COM}, {addresses.EXAMPLE_NET}, set())
        reached = list(pool.map(reached_by, [sandboxes[number] for number in looked_at]))
        assert reached == [expected[number % 3] for number in looked_at]
        list(pool.map(lambda sandbox: sandbox.delete(), sandboxes))
        assert host_rules() <= rules

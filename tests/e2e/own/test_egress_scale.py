"""Many sandboxes under policies: the host's rules are as many as for one."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e.shared.egress import DENY_ALL, custom
from lab import addresses
from lab.clients import sdk_client
from lab.reach import http, reach

SANDBOXES = 30


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


@pytest.mark.timeout(900)
def test_with_thirty_sandboxes_under_policies_the_number_of_rules_is_that_of_one(server):
    with sdk_client(server) as client, ThreadPoolExecutor(4) as pool:

        def create(number: int):
            return client.sandboxes.create(timeout=1800, network_policy=policy_of(number))

        first = create(0)
        rules = host_rules()
        sandboxes = [first, *pool.map(create, range(1, SANDBOXES))]
        assert host_rules() == rules, "addresses are in sets"
        for number in (0, 1, 2, SANDBOXES - 3, SANDBOXES - 2, SANDBOXES - 1):
            found = reach(
                sandboxes[number], name=http("example.com"), address=http("whatever", address=addresses.EXAMPLE_NET)
            )
            reached = {answer.server for answer in found.values()} - {None}
            expected = ({addresses.EXAMPLE_COM}, {addresses.EXAMPLE_NET}, set())[number % 3]
            assert reached == expected, (number, found)
        list(pool.map(lambda sandbox: sandbox.delete(), sandboxes))
        assert host_rules() <= rules

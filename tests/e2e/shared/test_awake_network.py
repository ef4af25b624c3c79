"""The network of a sandbox that was woken, restored or started again is what it was: case 27, for today's one policy.

What is allowed works from the first moment, and what is forbidden never leaves the host: the guest sends all the time.
"""

import pytest

from lab import addresses, current
from lab.sandboxes import GUEST_DIR, probe, sh

FORBIDDEN = (addresses.METADATA, *addresses.PRIVATE)
# From within, without a pause: a packet to each of them, and one with a forged source, every 20 ms.
RESTLESS = f"""
import socket, sys, time
sys.path.insert(0, "/tmp")
import probe
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    for address in {FORBIDDEN!r}:
        try:
            out.sendto(b"forbidden", (address, 7))
            probe.spoof("6.6.6.6", "{addresses.EXAMPLE_COM}", 7)
        except OSError:
            pass
    time.sleep(0.02)
"""


@pytest.mark.production_driver
@pytest.mark.thorough
def test_case_27_policy_is_in_force_before_the_first_packet_after_every_wake_restore_and_start(client, api):
    sandbox = client.sandboxes.create(timeout=3600)
    check(sandbox)
    sandbox.filesystem.write_file(path="/tmp/probe.py", content=(GUEST_DIR / "probe.py").read_text())
    sandbox.filesystem.write_file(path="/tmp/restless.py", content=RESTLESS)
    sh(sandbox, "sudo setsid python3 /tmp/restless.py >/dev/null 2>&1 </dev/null &")
    forbidden = " or ".join(f"host {address}" for address in (*FORBIDDEN, "6.6.6.6"))
    with current().capture(forbidden) as capture:
        sandbox.pause()
        check(sandbox)
        snapshot = sandbox.create_snapshot()
        restored = client.snapshots.restore(snapshot_name=snapshot.name)
        for each in (restored, sandbox):
            check(each)
            assert sh(each, "pgrep -fc '[r]estless' || true").strip() != "0", "it sends on"
        assert api.post(f"/v1/sandbox/{sandbox.id}/stop").status_code == 200
        assert api.post(f"/v1/sandbox/{sandbox.id}/start").status_code == 200
        check(sandbox)
        results = probe(sandbox, f"{addresses.EXAMPLE_NET}:80", *(f"{address}:80" for address in FORBIDDEN))
    assert results.pop(f"{addresses.EXAMPLE_NET}:80") == "open" and "open" not in results.values(), results
    assert capture.packets == []
    restored.delete()
    sandbox.delete()
    client.snapshots.delete(snapshot)


def check(sandbox) -> None:
    """What is allowed works. That what is forbidden does not, the capture tells."""
    assert "200" in sh(sandbox, "curl -sS -o /dev/null -w '%{http_code}' --max-time 20 http://example.com/")

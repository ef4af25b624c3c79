"""A guest that sends all the time, so that a moment without its policy would show."""

from lab import addresses, wait_until
from lab.sandboxes import GUEST_DIR, sh

FORBIDDEN = (addresses.METADATA, *addresses.PRIVATE)
FORGED = "6.6.6.6"


def start(sandbox, allowed: str, *forbidden: str) -> None:
    """Begins to send, as the guest's root, to an allowed address and to forbidden ones."""
    for name in ("probe.py", "restless.py"):
        sandbox.filesystem.write_file(path=f"/tmp/{name}", content=(GUEST_DIR / name).read_text())
    arguments = " ".join((allowed, *forbidden))
    sh(sandbox, f"sudo setsid python3 /tmp/restless.py {arguments} >/tmp/restless.log 2>&1 </dev/null &")
    wait_until("it has sent to all of them", lambda: rounds(sandbox) > 0)


def rounds(sandbox) -> int:
    """How often it has sent to all of them."""
    return int(sh(sandbox, "cat /dev/shm/rounds"))


def assert_sends_on(sandbox) -> None:
    """It sends to all of them once more at least: that there is such a process would not say so."""
    before = rounds(sandbox)
    # The next round may have begun before it was asked.
    wait_until("it sends on", lambda: rounds(sandbox) >= before + 2)

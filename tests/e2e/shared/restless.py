"""A guest that sends all the time, so that a moment without its policy would show."""

from lab import addresses
from lab.sandboxes import GUEST_DIR, sh

FORBIDDEN = (addresses.METADATA, *addresses.PRIVATE)
FORGED = "6.6.6.6"


def start(sandbox, allowed: str, *forbidden: str) -> None:
    """Begins to send, as the guest's root, to an allowed address and to forbidden ones."""
    for name in ("probe.py", "restless.py"):
        sandbox.filesystem.write_file(path=f"/tmp/{name}", content=(GUEST_DIR / name).read_text())
    arguments = " ".join((allowed, *forbidden))
    sh(sandbox, f"sudo setsid python3 /tmp/restless.py {arguments} >/tmp/restless.log 2>&1 </dev/null &")


def assert_sends_on(sandbox) -> None:
    assert sh(sandbox, "pgrep -fc '[r]estless' || true").strip() != "0", "it sends on"

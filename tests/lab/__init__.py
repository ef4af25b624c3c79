"""The test lab: a machine of its own for every run, with a fake internet as its only neighbour.

    parent (the real machine)
      └─ PID 1 of a new pid namespace ── host namespace: server, SDK, curl, pytest
           │                             uplink0 203.0.113.2, 192.168.77.2; default route and DNS to the fake internet
           └─ fake internet ──────────── internet0 203.0.113.1 and public-looking addresses: DNS, HTTP, echo

Nothing in it has a route to the real machine's network. All of it hangs on one process: when the parent or PID 1
dies, however it dies, the kernel ends every process of the pid namespace, and with them every network namespace,
interface and mount. Only the run's folder and empty cgroups can be left, and the next run removes those.

Callers: the Makefile (``python -m lab run -- pytest``), the demo, the bench.
"""

from lab.current import Capture, Lab, current
from lab.server import Server
from lab.waiting import patience, wait_until

__all__ = ["Capture", "Lab", "Server", "current", "patience", "wait_until"]

"""Builds the lab around a command and runs it: the parent's side and PID 1's side.

The parent forks once into a new pid namespace. PID 1 makes the network and mount namespaces, starts the fake
internet, runs the command, reaps whatever is orphaned to it, and ends with the command's exit status. Its end ends
everything else.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from lab import addresses, kernel
from lab.waiting import wait_until

_CGROUP_ROOT = Path("/sys/fs/cgroup")
TESTS_DIR = Path(__file__).resolve().parents[1]
# Below are the product's defaults. A lab has room for several servers, and all labs end below 2^32.
_FIRST_UID, _UIDS_PER_LAB, _LABS = 4_000_000, 100_000, 32_768
# Runs that failed whose logs are kept.
_KEPT_FAILURES = 10


def run(command: list[str], base: Path) -> int:
    """Runs `command` in a lab of its own and returns its exit status. `base` gets the run's folder."""
    _remove_stale(base)
    run_dir = base / f"run-{os.getpid()}-{_start_ticks(os.getpid())}"
    run_dir.mkdir(parents=True)
    kernel.unshare(kernel.CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        _as_pid_one(command, run_dir)
    # Ctrl-C reaches the whole foreground group; the command decides, and the parent reports its status.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        _keep_logs(run_dir, base / "failures")
    _remove(run_dir)
    return code if code >= 0 else 128 - code


def _as_pid_one(command: list[str], run_dir: Path) -> None:
    code = 1
    # Without a handler, the kernel keeps every signal from the first process of a namespace.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        kernel.die_with_parent(signal.SIGKILL)
        _make_private_mounts(run_dir)
        internet = _connect_internet(run_dir)
        description = {"run_dir": str(run_dir), "internet_pid": internet.pid, "base_uid": _base_uid(run_dir)}
        (run_dir / "lab.json").write_text(json.dumps(description))
        # The conformance suite's files are in the run's folder, so that they go with it however the suite ends.
        own = {"LEAPBOX_LAB": str(run_dir / "lab.json"), "LEAPBOX_CONFORMANCE_DIR": str(run_dir)}
        code = _run_and_reap(command, {**os.environ, **own})
    except BaseException as error:
        print(f"lab: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _base_uid(run_dir: Path) -> int:
    """No other lab's that runs now: from the parent's process id, which is in the folder's name."""
    return _FIRST_UID + int(run_dir.name.split("-")[1]) % _LABS * _UIDS_PER_LAB


def _make_private_mounts(run_dir: Path) -> None:
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWNET)
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("proc", "/proc", "proc")
    # Sockets of the real machine's daemons (name caches, say) are a way out too.
    kernel.mount("tmpfs", "/run", "tmpfs")
    resolv = run_dir / "resolv.conf"
    resolv.write_text("".join(f"nameserver {address}\n" for address in addresses.DNS_SERVERS))
    target = Path(os.path.realpath("/etc/resolv.conf"))
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    kernel.mount(str(resolv), str(target), None, kernel.MS_BIND)


def _connect_internet(run_dir: Path) -> subprocess.Popen:
    internet = subprocess.Popen(
        [sys.executable, "-m", "lab.internet", str(run_dir)],
        env={**os.environ, "PYTHONPATH": str(TESTS_DIR)},
        preexec_fn=lambda: kernel.unshare(kernel.CLONE_NEWNET),
        stdin=subprocess.DEVNULL,
    )
    lines = [
        "link set lo up",
        f"link add uplink0 address {addresses.HOST_MAC} type veth peer name internet0 netns {internet.pid}",
        f"addr add {addresses.HOST_UPLINK}/24 dev uplink0",
        f"addr add {addresses.HOST_LAN}/24 dev uplink0",
        "link set uplink0 up",
        f"route add default via {addresses.INTERNET_UPLINK} src {addresses.HOST_UPLINK}",
    ]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)

    def ready() -> bool:
        if internet.poll() is not None:
            raise SystemExit(f"the fake internet ended with status {internet.returncode}")
        return (run_dir / "internet.ready").exists()

    wait_until("the fake internet", ready)
    return internet


def _run_and_reap(command: list[str], environment: dict[str, str]) -> int:
    child = subprocess.Popen(command, env=environment)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: child.send_signal(received))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _keep_logs(run_dir: Path, folder: Path) -> None:
    """Copies the run's logs to a folder of its name. Labs run beside each other, and each keeps its own."""
    destination = folder / run_dir.name
    destination.mkdir(parents=True)
    for pattern in ("*.log", "*.jsonl"):
        for log in run_dir.glob(pattern):
            shutil.copy(log, destination / log.name)
    for old in sorted(folder.iterdir(), key=lambda kept: kept.stat().st_mtime)[:-_KEPT_FAILURES]:
        shutil.rmtree(old, ignore_errors=True)
    print(f"lab: logs are kept in {destination}", file=sys.stderr)


def _start_ticks(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except FileNotFoundError:
        return None


def _remove_stale(base: Path) -> None:
    """Removes what runs of dead parents left: their folders, and their servers' empty cgroups."""
    for folder in base.glob("run-*-*"):
        pid, ticks = folder.name.split("-")[1:3]
        if _start_ticks(int(pid)) != ticks:
            _remove(folder)


def _remove(run_dir: Path) -> None:
    for name in _lines(run_dir / "cgroups.txt"):
        # A path, or a name that may be in every hierarchy.
        for place in ("", *os.listdir(_CGROUP_ROOT)):
            _remove_empty_cgroup(_CGROUP_ROOT / place / name)
    shutil.rmtree(run_dir, ignore_errors=True)


def _remove_empty_cgroup(path: Path) -> None:
    for folder, _, _ in os.walk(path, topdown=False):
        # One with a process in it answers EBUSY, and is another's by now.
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []

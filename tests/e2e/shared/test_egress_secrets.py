"""Where the secrets of a policy are not: case 25, and the injected values, sought in every place there is."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.shared import brokered
from e2e.shared.egress import CURL, custom, sandbox_under, what_is_requested_outside
from lab import current
from lab.footprint import memory_of
from lab.sandboxes import sh, vmm_pid
from lab.sdk import Leap0Client

# An unencrypted P-256 key in DER (SEC 1, section C.4, within PKCS #8 or alone): what comes before its 32 bytes.
KEY_HEADS = (b"\x02\x01\x01\x04\x20", b"\x30\x77\x02\x01\x01\x04\x20")
SANDBOX_CA = "/run/leapbox/egress-ca.pem"
PEM_KEY = re.compile(rb"-----BEGIN (EC )?PRIVATE KEY-----\r?\n[A-Za-z0-9+/]{16}")
PIECE, OVERLAP = 16 << 20, 1024
LEAF = "openssl s_client -connect api.example.com:443 -servername api.example.com </dev/null 2>/dev/null | openssl x509"
# How `openssl verify` ends when a certificate is not to be trusted.
NOT_TRUSTED = 2


@pytest.fixture(scope="module")
def sandbox(server):
    with sandbox_under(brokered.policy()) as made, what_is_requested_outside() as requested:
        # In use: what is only there once a connection was terminated is there.
        sh(made, f"{CURL} https://api.example.com/warm >/dev/null")
        yield made
    assert requested


@pytest.fixture(scope="module")
def stranger(server):
    with sandbox_under(custom(transforms=(brokered.transform("api.example.com", "Bearer of the stranger"),))) as made:
        yield made


def test_case_25_a_sandbox_does_not_trust_anothers_ca(sandbox, stranger):
    leaf = sh(sandbox, LEAF)
    authority = sh(sandbox, f"cat {SANDBOX_CA}")
    assert authority != sh(stranger, f"cat {SANDBOX_CA}")
    for each in (sandbox, stranger):
        each.filesystem.write_file(path="/tmp/leaf.pem", content=leaf)
    verify = "openssl verify /tmp/leaf.pem"
    # Its own is in the system's trust, so that the same command succeeds there.
    sh(sandbox, verify)
    assert stranger.process.execute(command=verify).exit_code == NOT_TRUSTED
    sh(stranger, "grep -c . /etc/ssl/certs/ca-certificates.crt")


def test_the_sandboxes_environment_names_its_trust_to_every_kind_of_program(sandbox):
    environment = dict(line.split("=", 1) for line in sh(sandbox, "env").splitlines() if "=" in line)
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS"):
        own = "".join(sh(sandbox, f"sed -n 2,4p {SANDBOX_CA}").split())
        assert own in "".join(sh(sandbox, f"cat {environment[name]}").split()), name


def private_keys_of(point: bytes, data: bytes) -> int:
    """How many unencrypted private keys of a public one are in some bytes."""
    found = 0
    for head in KEY_HEADS:
        at = data.find(head)
        while at >= 0:
            # The public point follows the 32 bytes closely, if it is there at all.
            found += point in data[at : at + 160]
            at = data.find(head, at + 1)
    return found


def public_point(sandbox) -> bytes:
    """The public key of a sandbox's CA on P-256: an uncompressed point of 65 bytes."""
    certificate = sh(sandbox, f"cat {SANDBOX_CA}").encode()
    key = ["openssl", "x509", "-noout", "-pubkey"]
    pem = subprocess.run(key, input=certificate, capture_output=True, check=True).stdout
    der = ["openssl", "pkey", "-pubin", "-outform", "DER"]
    return subprocess.run(der, input=pem, capture_output=True, check=True).stdout[-65:]


def test_case_25_no_secret_is_in_the_guests_memory(sandbox, server):
    point, seen = public_point(sandbox), 0
    for piece in memory_of(vmm_pid(server.data_dir, sandbox.id), own_only=True):
        assert brokered.SECRET.encode() not in piece and brokered.SECRET_BASIC.encode() not in piece
        assert private_keys_of(point, piece) == 0
        seen += piece.count(b"Leapbox sandbox CA")
    assert seen, "the certificate is there: this is the guest's memory"


def test_case_25_no_secret_is_in_an_answer_a_log_the_metrics_or_a_stored_file(sandbox, server, api):
    snapshot = sandbox.create_snapshot()
    try:
        answers = [
            api.get(f"/v1/sandbox/{sandbox.id}").text,
            api.get("/v1/sandboxes").text,
            api.get("/v1/snapshots").text,
        ]
        for answer in answers:
            assert brokered.SECRET not in answer and "PRIVATE KEY" not in answer
        assert "[redacted]" in answers[0], "that there is a credential is no secret"
        point = public_point(sandbox)
        read = {path: assert_no_secret(path, point) for path in (server.log, *files_below(server.data_dir))}
        assert any(read[path] for path in read if path.suffix == ".db"), "the database was looked at"
        assert any(read[path] for path in read if path.parent.name.startswith("ckp-")), "and the snapshot"
        metrics = subprocess.run(["curl", "-sS", f"http://{server.metrics_address}/metrics"], capture_output=True)
        assert metrics.returncode == 0 and brokered.SECRET.encode() not in metrics.stdout
    finally:
        with Leap0Client() as client:
            client.snapshots.delete(snapshot.id)


def files_below(folder: Path) -> Iterator[Path]:
    """Machines of the pool come and go meanwhile, and their folders with them."""
    for place, _, names in os.walk(folder):
        yield from (path for name in names if (path := Path(place, name)).is_file())


def assert_no_secret(path: Path, point: bytes) -> int:
    """Tells how many bytes of the file were looked at."""
    seen = 0
    for piece in data_of(path):
        seen += len(piece)
        for secret in (brokered.SECRET.encode(), brokered.SECRET_BASIC.encode()):
            assert secret not in piece, path
        assert private_keys_of(point, piece) == 0, path
        if _belongs_to_sandboxes(path):
            assert not PEM_KEY.search(piece), path
    return seen


def data_of(path: Path):
    """What a file holds, without its holes, in pieces that overlap a little."""
    try:
        with path.open("rb") as file:
            at, end = 0, os.fstat(file.fileno()).st_size
            while at < end:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
                extent_end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
                while at < extent_end:
                    yield os.pread(file.fileno(), min(PIECE, extent_end - at) + OVERLAP, at)
                    at += PIECE
                at = extent_end
    except OSError:
        # Gone meanwhile, or nothing but a hole to its end.
        return


def _belongs_to_sandboxes(path: Path) -> bool:
    """The installation has keys of its own, and libraries for QEMU that bring samples."""
    return not {"keys", "tls", "ca", "qemu"} & set(path.relative_to(current().run_dir).parts)

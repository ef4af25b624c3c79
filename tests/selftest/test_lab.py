"""The lab itself: a fake internet that answers, no way to the real one, and nothing left when it dies."""

import hashlib
import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from e2e.shared.egress import LEAVING
from lab import addresses, current, footprint, patience, wait_until

TESTS_DIR = Path(__file__).resolve().parents[1]
# What OpenSSL finds wrong (x509_vfy.h): X509_V_ERR_CERT_HAS_EXPIRED, _DEPTH_ZERO_SELF_SIGNED_CERT, _HOSTNAME_MISMATCH.
EXPIRED, SELF_SIGNED, WRONG_NAME = 10, 18, 62
# Interfaces that the kernel itself puts into each new namespace, if it has the modules.
OF_THE_KERNEL = {"lo", "sit0", "tunl0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6gre0"}


def test_a_name_is_resolved_by_the_fake_internet():
    assert socket.gethostbyname("example.com") == addresses.EXAMPLE_COM
    assert "example.com" in {asked["name"] for asked in current().internet_questions()}


def test_a_name_the_fake_internet_does_not_know_does_not_exist():
    with pytest.raises(socket.gaierror):
        socket.gethostbyname("deb.debian.org")


def test_a_web_server_tells_who_asked():
    answer = httpx.get("http://example.com/hello").json()
    assert answer["client"] == addresses.HOST_UPLINK
    assert answer["server"] == addresses.EXAMPLE_COM
    assert current().internet_requests()[-1]["path"] == "/hello"


@pytest.mark.parametrize(("name", "version"), [("api.example.com", "HTTP/2"), ("h1.example.com", "HTTP/1.1")])
def test_web_servers_speak_tls_with_certificates_of_the_labs_own_ca_and_note_what_they_are_told(name, version):
    context = ssl.create_default_context(cafile=current().run_dir / "lab-ca.pem")
    with httpx.Client(verify=context, http2=True) as client:
        answer = client.post(f"https://{name}/digest", headers={"x-told": "yes"}, content=b"a" * 100_000)
    assert answer.http_version == version and answer.text == hashlib.sha256(b"a" * 100_000).hexdigest()
    seen = current().internet_requests()[-1]
    assert (seen["sni"], seen["version"]) == (name, version.removeprefix("HTTP/").removesuffix(".0"))
    assert ["x-told", "yes"] in [[known.lower(), value] for known, value in seen["headers"]]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("expired.example.com", EXPIRED), ("selfsigned.example.com", SELF_SIGNED), ("wrongname.example.com", WRONG_NAME)],
)
def test_some_certificates_are_accepted_by_nobody_each_for_its_own_reason(name, reason):
    context = ssl.create_default_context(cafile=current().run_dir / "lab-ca.pem")
    with (
        socket.create_connection((name, addresses.HTTPS_PORT), timeout=patience(5)) as plain,
        pytest.raises(ssl.SSLCertVerificationError) as refusal,
    ):
        context.wrap_socket(plain, server_hostname=name)
    assert refusal.value.verify_code == reason


def test_a_name_flips_from_public_to_private_and_a_tunnel_carries_what_it_is_asked():
    def asked(*what: str) -> list[str]:
        return subprocess.check_output(["dig", "+short", "@1.1.1.1", *what], text=True).split()

    assert asked("x.flip.example.com") == [addresses.EXAMPLE_COM]
    assert asked("x.flip.example.com") == asked("x.flip.example.com") == [addresses.PRIVATE[0]]
    assert asked("stolen.tunnel.example.org", "TXT") == ['"pong', 'stolen"']
    assert "ech=" in "".join(asked("ech.example.com", "HTTPS"))


def test_a_server_speaks_first():
    with socket.create_connection((addresses.SSH, addresses.SSH_PORT), timeout=patience(5)) as connection:
        assert connection.recv(64) == addresses.BANNER


@pytest.mark.parametrize("address", [addresses.METADATA, *addresses.PRIVATE])
def test_the_host_reaches_what_sandboxes_must_not(address):
    assert httpx.get(f"http://{address}/").status_code == 200


def test_any_sandbox_name_under_localhost_resolves_to_loopback():
    found = {entry[4][0] for entry in socket.getaddrinfo("sbx-any-8000.sandbox.localhost", 8443)}
    assert found <= {"127.0.0.1", "::1"}


def test_no_interface_of_the_real_machine_is_in_the_lab():
    assert {name for _, name in socket.if_nameindex()} - OF_THE_KERNEL == {"uplink0"}


def test_every_route_ends_in_the_fake_internet():
    routes = subprocess.run(["ip", "route", "get", "9.9.9.9"], capture_output=True, text=True, check=True).stdout
    assert f"via {addresses.INTERNET_UPLINK}" in routes
    with pytest.raises(OSError):
        # Whoever could be reached would answer in this time, also on a busy machine.
        socket.create_connection(("9.9.9.9", 53), timeout=patience(2))


def test_a_capture_shows_the_sender_of_each_packet():
    with current().capture("udp port 7") as capture:
        probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        probe.settimeout(patience(5))
        probe.sendto(b"ping", (addresses.EXAMPLE_COM, addresses.ECHO_PORT))
        assert probe.recv(16) == b"ping"
    assert capture.sources() == {addresses.HOST_UPLINK, addresses.EXAMPLE_COM}


def test_what_leaves_the_host_is_seen_whatever_source_it_names():
    forged, port = "6.6.6.6", "9"
    with current().capture(LEAVING) as capture:
        argv = [sys.executable, str(TESTS_DIR / "guest" / "probe.py"), "spoof", forged, addresses.EXAMPLE_COM, port]
        subprocess.run(argv, check=True)
    assert forged in capture.sources(), capture.packets


def test_a_capture_that_has_lost_packets_fails():
    with pytest.raises(AssertionError), current().capture("udp dst port 9") as capture:
        (tcpdump,) = (pid for pid, command in footprint.commands().items() if command == "tcpdump")
        os.kill(tcpdump, signal.SIGSTOP)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            # More than the kernel has room for.
            for _ in range(50_000):
                sender.sendto(b"lost", (addresses.EXAMPLE_COM, 9))
        os.kill(tcpdump, signal.SIGCONT)
    assert capture.dropped > 0


def test_an_orphan_is_reaped_by_pid_one():
    orphan = int(subprocess.check_output(["sh", "-c", "sleep 0.1 >/dev/null & echo $!"]))
    wait_until("the orphan is gone", lambda: not Path(f"/proc/{orphan}").exists())


@pytest.mark.parametrize("victim", ["parent", "PID 1"])
def test_a_killed_lab_leaves_no_process_and_the_next_run_removes_its_folder(tmp_path, victim):
    marker = f"lab-victim-{os.getpid()}-{victim.replace(' ', '')}"
    argv = [sys.executable, "-m", "lab", "run", "--base", str(tmp_path), "--"]
    parent = subprocess.Popen([*argv, "sh", "-c", f": {marker}; while :; do sleep 1; done"], cwd=TESTS_DIR)
    inner = wait_until("the inner command runs", lambda: _pids_with(f": {marker};") - {parent.pid})
    target = parent.pid if victim == "parent" else _children(parent.pid)[0]
    os.kill(target, signal.SIGKILL)
    parent.wait(timeout=patience(10))
    wait_until("the inner command is gone", lambda: not any(Path(f"/proc/{pid}").exists() for pid in inner))
    if victim == "parent":
        assert list(tmp_path.glob("run-*")), "a killed parent cannot clean up"
    subprocess.run([*argv, "true"], cwd=TESTS_DIR, check=True, timeout=patience(30))
    assert not list(tmp_path.glob("run-*"))


def test_the_commands_exit_status_is_the_labs(tmp_path):
    argv = [sys.executable, "-m", "lab", "run", "--base", str(tmp_path), "--", "sh", "-c", "exit 7"]
    assert subprocess.run(argv, cwd=TESTS_DIR, timeout=patience(30)).returncode == 7


def _pids_with(text: str) -> set[int]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if arguments[0] == b"sh" and any(part.startswith(text.encode()) for part in arguments):
            found.add(int(entry.name))
    return found


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

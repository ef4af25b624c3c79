"""What a sandbox reaches, and what it must not: case 8, judged by packets where packets can tell."""

import http.server
import json
import socket
import subprocess
import threading

import pytest

from lab import addresses, current, patience, wait_until
from lab.reach import NXDOMAIN, dns, reach, udp
from lab.sandboxes import GUEST_DIR, probe, sh, start_app

HOST_SERVICE_PORT = 7777


class HostService(http.server.ThreadingHTTPServer):
    """Something the host serves to its own network, on all of its addresses; it counts who connects."""

    daemon_threads = True

    def __init__(self):
        self.connections = 0
        super().__init__(("", HOST_SERVICE_PORT), http.server.SimpleHTTPRequestHandler)

    def verify_request(self, request, client_address) -> bool:
        self.connections += 1
        return super().verify_request(request, client_address)


@pytest.fixture
def host_service():
    service = HostService()
    threading.Thread(target=service.serve_forever, daemon=True).start()
    yield service
    service.shutdown()
    service.server_close()


def host_addresses() -> list[str]:
    """Every IPv4 address the host has now, on any interface but loopback."""
    shown = subprocess.run(["ip", "-json", "-4", "addr"], capture_output=True, text=True, check=True)
    infos = (info for link in json.loads(shown.stdout) if link["ifname"] != "lo" for info in link["addr_info"])
    return [info["local"] for info in infos]


def connects(host: str) -> bool:
    try:
        socket.create_connection((host, HOST_SERVICE_PORT), patience(10)).close()
    except OSError:
        return False
    return True


def own_address(sandbox) -> str:
    return sh(sandbox, "ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1").split()[0]


def write_probe(sandbox) -> None:
    sandbox.filesystem.write_file(path="/tmp/probe.py", content=(GUEST_DIR / "probe.py").read_text())


@pytest.mark.production_driver
@pytest.mark.thorough
def test_names_web_servers_bulk_data_and_udp_outside_are_reached(shared_sandbox):
    answer = json.loads(sh(shared_sandbox, f"curl -sS --max-time {patience(20)} http://example.com/from-a-sandbox"))
    assert answer["server"] == addresses.EXAMPLE_COM
    assert answer["client"] == addresses.HOST_UPLINK, "a sandbox appears under its host's address"
    command = f"curl -sS --max-time {patience(60)} http://example.com/bytes/5000000 | wc -c"
    assert sh(shared_sandbox, command, timeout=int(patience(90))).strip() == "5000000"
    found = reach(
        shared_sandbox,
        name=dns("example.net"),
        unknown=dns("nobody.invalid"),
        udp=udp(addresses.EXAMPLE_COM, addresses.ECHO_PORT, "ping"),
    )
    assert found["name"].json["answers"] == [addresses.EXAMPLE_NET]
    assert found["unknown"].json["code"] == NXDOMAIN, "told, and not left to time out"
    assert found["udp"].data == "ping"


def test_case_8_the_metadata_address_and_private_networks_are_not_reachable(shared_sandbox):
    targets = [f"{address}:80" for address in (addresses.METADATA, *addresses.PRIVATE)]
    forbidden = " or ".join(f"host {address}" for address in (addresses.METADATA, *addresses.PRIVATE))
    with current().capture(forbidden) as capture:
        results = probe(shared_sandbox, f"{addresses.EXAMPLE_COM}:80", *targets)
    assert results.pop(f"{addresses.EXAMPLE_COM}:80") == "open", "the probe itself works"
    assert "open" not in results.values(), results
    assert capture.packets == [], "not one packet for them leaves the host"


def test_case_8_a_name_that_resolves_to_a_private_address_leads_nowhere(shared_sandbox):
    # Names are resolved, so that what follows is this name's own fate.
    sh(shared_sandbox, f"curl -sS --max-time {patience(20)} http://example.com/")
    with current().capture(f"host {addresses.PRIVATE[0]}") as capture:
        command = f"curl -sS --max-time {patience(20)} http://rebind.example.org/"
        result = shared_sandbox.process.execute(command=command, timeout=int(patience(60)))
    assert result.exit_code == 6, f"curl could resolve the host: {result}"
    assert capture.packets == []


def test_case_8_a_service_of_the_host_is_not_reachable_on_any_of_its_addresses(shared_sandbox, host_service):
    # An address of another sandbox's slot may go with it meanwhile.
    hosts = [host for host in host_addresses() if connects(host)]
    assert {addresses.HOST_UPLINK, addresses.HOST_LAN} < set(hosts), "the service is there, on slots' addresses too"
    wait_until("the service has seen the host itself", lambda: host_service.connections == len(hosts))
    # In the sandbox's own view, its gateway is the host as well.
    gateway = sh(shared_sandbox, "ip -4 route show default | awk '{print $3}'").strip()
    results = probe(shared_sandbox, *(f"{host}:{HOST_SERVICE_PORT}" for host in {*hosts, gateway}))
    assert "open" not in results.values(), {target: how for target, how in results.items() if how == "open"}
    assert host_service.connections == len(hosts), "only the host's own connections"


def test_case_8_a_forged_source_address_never_leaves_the_host(shared_sandbox):
    write_probe(shared_sandbox)
    # An honest packet last: when it has arrived, a forged one would have arrived as well.
    forged = ("6.6.6.6", addresses.HOST_LAN, "10.0.0.1", "127.0.0.1", addresses.INTERNET_UPLINK)
    sources = (*forged, own_address(shared_sandbox))

    def sent() -> int:
        return int(sh(shared_sandbox, "cat /sys/class/net/eth0/statistics/tx_packets"))

    before = sent()
    with current().capture("udp port 7 or udp port 4444") as capture:
        for source in sources:
            spoof = f"spoof {source} {addresses.EXAMPLE_COM} {addresses.ECHO_PORT}"
            sh(shared_sandbox, f"sudo python3 /tmp/probe.py {spoof}")
        wait_until("all of them have left the guest", lambda: sent() >= before + len(sources))
    assert capture.sources() <= {addresses.HOST_UPLINK, addresses.EXAMPLE_COM}, capture.packets
    assert len([packet for packet in capture.packets if f" IP {addresses.HOST_UPLINK}" in packet]) == 1, capture.packets


def test_case_8_addresses_claimed_on_the_guests_link_gain_nothing(sandbox, shared_sandbox, app, web):
    write_probe(sandbox)
    honest = f"curl -sS --max-time {patience(20)} http://example.com/"
    # Before it claims anything: its kernel knows its gateway's hardware address from now on.
    sh(sandbox, honest)
    gateway = sh(sandbox, "ip -4 route show default | awk '{print $3}'").strip()
    for address in (addresses.HOST_UPLINK, addresses.HOST_LAN):
        sh(sandbox, f"sudo ip addr add {address}/32 dev eth0")
    sh(sandbox, f"sudo python3 /tmp/probe.py claim {gateway} {addresses.HOST_UPLINK} {addresses.HOST_LAN}")
    assert sh(shared_sandbox, honest) != "", "its neighbour gets out"
    assert web.get(app).status_code == 200, "and is reached"
    with current().capture("tcp port 80") as capture:
        # Somewhere else than the honest request, which would hide it.
        command = f"curl -sS --max-time 3 --interface {addresses.HOST_LAN} http://{addresses.EXAMPLE_NET}/"
        claimed = sandbox.process.execute(command=command)
        sh(sandbox, honest)
    assert claimed.exit_code == 28, f"it was sent, and nothing came back: {claimed}"
    assert capture.sources() == {addresses.HOST_UPLINK, addresses.EXAMPLE_COM}, capture.packets
    assert [packet for packet in capture.packets if addresses.EXAMPLE_NET in packet] == []


def test_case_8_breaking_its_own_network_does_not_cut_the_sandbox_off(sandbox, web):
    url = start_app(sandbox, web)
    sh(sandbox, "sudo ip link set eth0 down; sudo ip addr flush dev eth0; sudo ip route flush table main; true")
    assert sh(sandbox, "cat /sys/class/net/eth0/operstate; ip -4 -o addr show dev eth0").split() == ["down"]
    assert sh(sandbox, "echo reached") == "reached\n"
    assert web.get(url).status_code == 200

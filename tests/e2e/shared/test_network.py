"""What a sandbox reaches, and what it must not: case 8, judged by packets where packets can tell."""

import http.server
import ipaddress
import json
import subprocess
import threading

import pytest

from lab import addresses, current
from lab.sandboxes import GUEST_DIR, probe, sh, start_app
from lab.sdk import Leap0Client

HOST_SERVICE_PORT = 7777


@pytest.fixture(scope="module")
def host_service():
    """Something the host serves to its own network, on all of its addresses."""
    service = http.server.ThreadingHTTPServer(("", HOST_SERVICE_PORT), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    yield service
    service.shutdown()


@pytest.fixture(scope="module")
def neighbour(server, web):
    """Another sandbox, with an app on every one of its addresses."""
    with Leap0Client() as client:
        made = client.sandboxes.create(timeout=3600)
        start_app(made, web, port=9000, address="0.0.0.0")
        yield made
        made.delete()


def host_addresses() -> list[str]:
    """Every IPv4 address the host has now, on any interface but loopback."""
    shown = subprocess.run(["ip", "-json", "-4", "addr"], capture_output=True, text=True, check=True)
    infos = (info for link in json.loads(shown.stdout) if link["ifname"] != "lo" for info in link["addr_info"])
    return [info["local"] for info in infos]


def slot_networks() -> list[ipaddress.IPv4Network]:
    """The small networks between the host and the sandboxes' namespaces, and whatever it routes to them."""
    shown = subprocess.run(["ip", "-json", "-4", "route"], capture_output=True, text=True, check=True)
    routes = [route for route in json.loads(shown.stdout) if route["dst"] != "default" and route["dev"] != "uplink0"]
    return [ipaddress.ip_network(route["dst"]) for route in routes]


@pytest.mark.production_driver
def test_names_are_resolved_and_web_servers_outside_are_reached(shared_sandbox):
    answer = json.loads(sh(shared_sandbox, "curl -sS --max-time 20 http://example.com/from-a-sandbox"))
    assert answer["server"] == addresses.EXAMPLE_COM
    assert answer["client"] == addresses.HOST_UPLINK, "a sandbox appears under its host's address"
    assert sh(shared_sandbox, "getent ahostsv4 example.net").split()[0] == addresses.EXAMPLE_NET


def test_a_name_that_does_not_exist_fails_quickly(shared_sandbox):
    result = shared_sandbox.process.execute(command="curl -sS --max-time 20 http://nobody.invalid/")
    assert result.exit_code == 6, result.stderr  # curl: could not resolve host


def test_bulk_data_comes_through_whole(shared_sandbox):
    command = "curl -sS --max-time 60 http://example.com/bytes/5000000 | wc -c"
    assert sh(shared_sandbox, command, timeout=90).strip() == "5000000"


def test_udp_goes_out_and_its_answer_comes_back(shared_sandbox):
    code = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(10); "
        f"s.sendto(b'ping', ('{addresses.EXAMPLE_COM}', {addresses.ECHO_PORT})); print(s.recv(99))"
    )
    assert sh(shared_sandbox, f'python3 -c "{code}"') == "b'ping'\n"


def test_case_8_the_metadata_address_and_private_networks_are_not_reachable(shared_sandbox):
    targets = [f"{address}:80" for address in (addresses.METADATA, *addresses.PRIVATE)]
    forbidden = " or ".join(f"host {address}" for address in (addresses.METADATA, *addresses.PRIVATE))
    with current().capture(forbidden) as capture:
        results = probe(shared_sandbox, f"{addresses.EXAMPLE_COM}:80", *targets)
    assert results.pop(f"{addresses.EXAMPLE_COM}:80") == "open", "the probe itself works"
    assert "open" not in results.values(), results
    assert capture.packets == [], "not one packet for them leaves the host"


def test_case_8_a_name_that_resolves_to_a_private_address_leads_nowhere(shared_sandbox):
    with current().capture(f"host {addresses.PRIVATE[0]}") as capture:
        result = shared_sandbox.process.execute(command="curl -sS --max-time 5 http://rebind.example.org/")
    assert result.exit_code != 0
    assert capture.packets == []


def test_case_8_none_of_the_hosts_services_is_reachable_on_any_of_its_addresses(shared_sandbox, host_service, server):
    ports = {
        HOST_SERVICE_PORT,
        server.gateway_port,
        *(int(a.split(":")[1]) for a in (server.api_address, server.metrics_address)),
    }
    own = sh(shared_sandbox, "ip -4 route show default | awk '{print $3}'").split()
    hosts = {*host_addresses(), *own}
    assert {addresses.HOST_UPLINK, addresses.HOST_LAN} <= hosts
    results = probe(shared_sandbox, *(f"{host}:{port}" for host in sorted(hosts) for port in sorted(ports)))
    assert "open" not in results.values(), {target: how for target, how in results.items() if how == "open"}


def test_case_8_the_hosts_ipv6_addresses_are_not_reachable(shared_sandbox, host_service):
    sh(shared_sandbox, "sudo sysctl -qw net.ipv6.conf.all.disable_ipv6=0 2>/dev/null; true")
    command = "sudo timeout 10 ping -6 -c 2 -W 2 -I eth0 ff02::1 2>/dev/null | grep -c 'bytes from' || true"
    code = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "try: s.connect(('2606:2800:220:1::1', 80)); print('routed')\n"
        "except OSError: print('no route')\n"
    )
    shared_sandbox.filesystem.write_file(path="/tmp/v6.py", content=code)
    answered = int(sh(shared_sandbox, command).strip() or 0)
    assert answered <= 1, "nobody but the sandbox itself may answer on its link"
    with current().capture("ip6") as capture:
        sh(shared_sandbox, "python3 /tmp/v6.py; curl -6 -sS --max-time 3 'http://[2606:2800:220:1::1]/' || true")
    assert [packet for packet in capture.packets if "fe80::" not in packet and "ff02::" not in packet] == []


def test_case_8_a_neighbour_is_not_reachable_on_any_address_of_the_host_or_its_slots(shared_sandbox, neighbour, web):
    assert web.get(neighbour.invoke_url("/", port=9000)).status_code == 200, "the neighbour serves"
    candidates = {str(host) for network in slot_networks() for host in list(network)[:1024]}
    inside = sh(neighbour, "ip -4 -o addr show scope global | awk '{print $4}' | cut -d/ -f1").split()
    mine = sh(shared_sandbox, "ip -4 -o addr show scope global | awk '{print $4}' | cut -d/ -f1").split()
    targets = sorted(candidates | set(inside) - set(mine))
    for start in range(0, len(targets), 512):
        results = probe(shared_sandbox, *(f"{target}:9000" for target in targets[start : start + 512]))
        assert "open" not in results.values(), {target: how for target, how in results.items() if how == "open"}


def test_case_8_a_forged_source_address_never_leaves_the_host(shared_sandbox):
    shared_sandbox.filesystem.write_file(path="/tmp/probe.py", content=(GUEST_DIR / "probe.py").read_text())
    with current().capture("udp port 7 or udp port 4444") as capture:
        for source in ("6.6.6.6", addresses.HOST_LAN, "10.0.0.1", "127.0.0.1", addresses.INTERNET_UPLINK):
            spoof = f"spoof {source} {addresses.EXAMPLE_COM} {addresses.ECHO_PORT}"
            shared_sandbox.process.execute(command=f"sudo python3 /tmp/probe.py {spoof}")
        # An honest packet last: when it has arrived, a forged one would have arrived as well.
        own = sh(shared_sandbox, "ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1").split()[0]
        sh(shared_sandbox, f"sudo python3 /tmp/probe.py spoof {own} {addresses.EXAMPLE_COM} {addresses.ECHO_PORT}")
    assert capture.sources() <= {addresses.HOST_UPLINK, addresses.EXAMPLE_COM}, capture.packets
    assert len([packet for packet in capture.packets if f" IP {addresses.HOST_UPLINK}" in packet]) == 1, capture.packets


def test_case_8_addresses_claimed_on_the_guests_link_gain_nothing(client, shared_sandbox, neighbour, web, host_service):
    thief = client.sandboxes.create()
    try:
        gateway = sh(thief, "ip -4 route show default | awk '{print $3}'").strip()
        claims = [f"sudo ip addr add {address}/32 dev eth0" for address in (addresses.HOST_UPLINK, addresses.HOST_LAN)]
        sh(thief, "; ".join(claims))
        sh(thief, f"sudo arping -c 2 -U -I eth0 {gateway} 2>/dev/null; sudo ip neigh flush all; true")
        assert sh(shared_sandbox, "curl -sS --max-time 20 http://example.com/") != ""
        assert web.get(neighbour.invoke_url("/", port=9000)).status_code == 200
        with current().capture("tcp port 80") as capture:
            command = f"curl -sS --max-time 5 --interface {addresses.HOST_LAN} http://example.com/ || true"
            sh(thief, command)
        assert capture.sources() <= {addresses.HOST_UPLINK, addresses.EXAMPLE_COM}
    finally:
        thief.delete()


def test_case_8_the_guest_channel_is_out_of_the_workloads_sight(shared_sandbox):
    links = sh(shared_sandbox, "ip -o link | awk -F': ' '{print $2}'").split()
    assert {link.split("@")[0] for link in links} <= {"lo", "eth0", "sit0", "ip6tnl0", "tunl0"}


def test_case_8_breaking_its_own_network_does_not_cut_the_sandbox_off(client, web):
    sandbox = client.sandboxes.create()
    try:
        url = start_app(sandbox, web)
        sh(sandbox, "sudo ip link set eth0 down; sudo ip addr flush dev eth0; sudo ip route flush table main; true")
        assert sh(sandbox, "echo reached") == "reached\n"
        assert web.get(url).status_code == 200
    finally:
        sandbox.delete()

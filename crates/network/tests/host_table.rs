//! The host-wide table under a running server: what other programs remove of it comes back, and nothing opens
//! meanwhile.

mod support;

use leapbox_egress_policy::{Cidr, Policy};
use leapbox_guest_protocol::net::WORKLOAD_GUEST;
use leapbox_network::{HostTable, Network, NetworkConfig, Slot};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::frames::{GUEST_MAC, HOST_MAC, IPV4, ethernet, udp};
use support::guest::Guest;
use support::internet::{PRIVATE, TCP_PORT, UDP_PORT};
use support::{HOST, PATIENCE, PUBLIC, config, eventually, in_world, open_slot, slot_under};

/// What is promised to whoever restarts a firewall under running sandboxes.
const RESTORED_WITHIN: Duration = Duration::from_secs(3);

/// A network whose operator lets policies open 10.1.0.0/16, and a slot whose policy opens one address of it.
async fn network_and_named_slot() -> (Arc<Network>, Slot) {
    let operator = vec![Cidr::parse("10.1.0.0/16").expect("cidr")];
    let with = NetworkConfig { egress_private_cidrs: operator.clone(), ..config() };
    let network = Network::start(with).await.expect("network");
    let json = json!({ "mode": "custom", "allow_cidrs": ["10.1.2.3/32"] });
    let slot = slot_under(&network, Policy::parse(&json, &operator).expect("policy")).await;
    (network, slot)
}

/// The host-wide table as nft prints it; empty while there is none.
fn table() -> String {
    let listed = Command::new("nft").args(["list", "table", "inet", "leapbox_7e57"]).output().expect("nft runs");
    String::from_utf8_lossy(&listed.stdout).into_owned()
}

fn connects(guest: &Guest, address: Ipv4Addr) -> bool {
    guest.run(move || TcpStream::connect_timeout(&SocketAddr::from((address, TCP_PORT)), PATIENCE).is_ok())
}

/// Sends datagrams to a private address, to the host and to another slot's end until told to stop. They must not
/// arrive.
fn keep_trying(guest: &Guest, other_end: Ipv4Addr, stop: &AtomicBool) -> usize {
    let frames = [PRIVATE, HOST, Ipv4Addr::new(10, 253, 0, 0), other_end]
        .map(|to| ethernet(HOST_MAC, GUEST_MAC, IPV4, &udp(WORKLOAD_GUEST, to, UDP_PORT, b"evil")));
    let mut rounds = 0;
    while !stop.load(Ordering::Acquire) {
        frames.iter().for_each(|frame| guest.inject(frame));
        rounds += 1;
        std::thread::sleep(Duration::from_micros(500));
    }
    rounds
}

/// Whether the datagram of [`keep_trying`] has arrived at a socket.
fn has_evil(socket: &UdpSocket) -> bool {
    socket.set_nonblocking(true).expect("nonblocking");
    socket.recv(&mut [0; 64]).is_ok()
}

#[test]
fn a_flushed_ruleset_is_back_within_seconds_with_its_opened_networks_and_nothing_opens_meanwhile() {
    in_world(|world| async move {
        let (network, named) = network_and_named_slot().await;
        let open = open_slot(&network).await;
        let (named_guest, guest) = (Guest::attach(&named), Guest::attach(&open));
        let on_host = UdpSocket::bind(("0.0.0.0", UDP_PORT)).expect("bind");
        let in_slot = support::inside(&named.netns(), || UdpSocket::bind(("0.0.0.0", UDP_PORT)).expect("bind"));
        let named_end = Ipv4Addr::new(10, 253, 0, 2 * named.index() as u8 + 1);
        let before = table();
        assert!(before.contains(". 10.1.2.3"), "{before}");
        let stop = AtomicBool::new(false);
        let (rounds, took) = std::thread::scope(|scope| {
            let trying = scope.spawn(|| keep_trying(&guest, named_end, &stop));
            support::run("nft", "flush ruleset");
            let flushed = Instant::now();
            while table() != before && flushed.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(20));
            }
            let took = flushed.elapsed();
            stop.store(true, Ordering::Release);
            (trying.join().expect("no panic"), took)
        });
        assert!(took < RESTORED_WITHIN, "it took {took:?}: {}", table());
        eventually("the count", || network.stats().host_rules_restored, |count| *count == 1).await;
        // What nothing would have stopped is through by now: these go the same way.
        assert!(connects(&named_guest, PRIVATE) && connects(&guest, PUBLIC), "both reach what they may");
        assert!(rounds > 0 && world.internet.count(b"evil") == 0, "{:?}", world.internet.arrivals());
        assert!(!has_evil(&on_host) && !has_evil(&in_slot));
        // It was the guard that kept it in: without table and guard the same datagrams arrive.
        network.stop(HostTable::Keep).await.expect("stop");
        support::run("nft", "flush ruleset");
        let frame = ethernet(HOST_MAC, GUEST_MAC, IPV4, &udp(WORKLOAD_GUEST, HOST, UDP_PORT, b"evil"));
        guest.inject(&frame);
        on_host.set_nonblocking(false).expect("blocking");
        on_host.set_read_timeout(Some(PATIENCE)).expect("timeout");
        on_host.recv(&mut [0; 64]).expect("without the host's rules the host is reached");
    });
}

#[test]
fn whatever_else_removes_rules_or_elements_of_the_table_is_undone() {
    in_world(|_world| async {
        let (network, _slot) = network_and_named_slot().await;
        let before = table();
        let removals = [
            "delete table inet leapbox_7e57",
            "flush table inet leapbox_7e57",
            "flush chain inet leapbox_7e57 leaving",
            "flush set inet leapbox_7e57 blocked",
            "flush set inet leapbox_7e57 named",
        ];
        for (count, removal) in (1..).zip(removals) {
            support::run("nft", removal);
            eventually(removal, || network.stats().host_rules_restored, |restored| *restored == count).await;
            assert_eq!(table(), before, "after {removal}");
        }
        // The guard is not other programs' to remove, and a server that ends takes it along.
        let removed = Command::new("nft").args(["delete", "table", "inet", "leapbox_7e57_guard"]).output();
        assert!(!removed.expect("nft runs").status.success());
        network.stop(HostTable::Keep).await.expect("stop");
        assert_eq!(support::run("nft", "list tables"), "table inet leapbox_7e57\n");
    });
}

#[test]
fn what_the_server_and_other_programs_change_themselves_restores_nothing() {
    in_world(|_world| async {
        let (network, slot) = network_and_named_slot().await;
        support::run("nft", "add table ip docker");
        slot.close().await;
        eventually("closed again", table, |listed| !listed.contains(". 10.1.2.3")).await;
        support::run("nft", "delete table ip docker");
        // Time for a look, which these events have asked for. It finds nothing missing.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(network.stats().host_rules_restored, 0);
        support::run("nft", "flush ruleset");
        eventually("the first restoration", || network.stats().host_rules_restored, |count| *count == 1).await;
        assert!(!table().contains(". 10.1.2.3"), "the slot that is gone has nothing opened");
        network.stop(HostTable::Remove).await.expect("stop");
        assert_eq!(support::run("nft", "list tables"), "");
    });
}

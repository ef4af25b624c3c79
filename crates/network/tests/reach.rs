//! What a sandbox reaches, and what it does not: case 8.

mod support;

use leapbox_guest_protocol::net::{CHANNEL_HOST, WORKLOAD_GATEWAY, WORKLOAD_GUEST};
use leapbox_network::{HostTable, Network, NetworkConfig, NetworkError, Slot};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::frames::{ARP, GUEST_MAC, HOST_MAC, IPV4, IPV6, arp, ethernet, ipv4, tagged, udp, udp_from_port, udp_v6};
use support::guest::Guest;
use support::internet::{FORBIDDEN, TCP_PORT, UDP_PORT};
use support::{HOST, PUBLIC, SILENCE, World, config, in_world, network_and_slot, open_slot};

/// Connects and reads the greeting: the address the other side sees.
fn greeting(address: Ipv4Addr, port: u16, patience: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), patience)?;
    stream.set_read_timeout(Some(support::PATIENCE))?;
    let mut line = vec![];
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Asserts that a connect from the guest comes to nothing.
fn assert_closed(guest: &Guest, address: Ipv4Addr, port: u16) {
    let result = guest.run(move || greeting(address, port, SILENCE));
    assert!(result.is_err(), "{address}:{port} greeted: {result:?}");
}

/// A TCP server in the calling thread's namespace, and how many connections it has got.
fn counting_server(port: u16) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("bind");
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            counter.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(b"inside\n");
        }
    });
    count
}

/// Sends a frame nothing may come of, then a proper one; only the second may arrive out there.
fn assert_dropped(world: &World, guest: &Guest, what: &str, frame: &[u8]) {
    let marker = format!("after {what}").into_bytes();
    guest.inject(frame);
    guest.inject(&ethernet(HOST_MAC, GUEST_MAC, IPV4, &udp(WORKLOAD_GUEST, PUBLIC, UDP_PORT, &marker)));
    world.internet.wait_for(&marker);
    let arrivals = world.internet.arrivals();
    assert!(!arrivals.iter().any(|arrival| arrival.bytes == b"evil"), "{what} got out: {arrivals:?}");
}

#[test]
fn a_sandbox_reaches_a_public_server_under_the_hosts_address() {
    in_world(|_world| async {
        let (_network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        let seen = guest.run(|| greeting(PUBLIC, TCP_PORT, support::PATIENCE)).expect("greeting");
        assert_eq!(seen, HOST.to_string());
    });
}

#[test]
fn a_sandbox_moves_bulk_data_both_ways() {
    in_world(|_world| async {
        let (_network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        let echoed = guest.run(|| {
            let mut stream = TcpStream::connect((PUBLIC, TCP_PORT)).expect("connect");
            let mut writer = stream.try_clone().expect("clone");
            let sender = std::thread::spawn(move || {
                writer.write_all(&vec![7; 1 << 20]).expect("write");
                writer.shutdown(std::net::Shutdown::Write).expect("shutdown");
            });
            let mut all = vec![];
            stream.read_to_end(&mut all).expect("read");
            sender.join().expect("sender");
            all.iter().filter(|byte| **byte == 7).count()
        });
        assert_eq!(echoed, 1 << 20);
    });
}

#[test]
fn a_sandbox_may_ping_its_gateway() {
    in_world(|_world| async {
        let (_network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        assert!(guest.pings(WORKLOAD_GATEWAY));
    });
}

#[test]
fn case_08_private_and_metadata_addresses_are_dropped_though_the_host_reaches_them() {
    in_world(|_world| async {
        let (_network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        for address in FORBIDDEN {
            let address: Ipv4Addr = address.parse().expect("address");
            greeting(address, TCP_PORT, support::PATIENCE).expect("the host reaches it");
            assert_closed(&guest, address, TCP_PORT);
        }
    });
}

#[test]
fn case_08_the_hosts_own_services_are_dropped_on_every_address_of_the_host() {
    in_world(|_world| async {
        let (_network, slot) = network_and_slot().await;
        support::ip("addr add 8.8.4.4/32 dev lo");
        let connections = counting_server(8080);
        let guest = Guest::attach(&slot);
        let root_end = Ipv4Addr::new(10, 253, 0, 0);
        for address in [HOST, Ipv4Addr::new(8, 8, 4, 4), root_end] {
            greeting(address, 8080, support::PATIENCE).expect("the host reaches itself");
            assert_closed(&guest, address, 8080);
        }
        assert_eq!(connections.load(Ordering::SeqCst), 3, "only the host's own connections");
    });
}

#[test]
fn case_08_a_port_published_by_destination_nat_on_the_host_is_no_way_in() {
    in_world(|_world| async {
        let (_network, slot) = network_and_slot().await;
        let connections = counting_server(8080);
        // As Docker publishes a container's port on all addresses of the host, and on a foreign public one.
        support::run("nft", "add table ip docker");
        support::run("nft", "add chain ip docker pre { type nat hook prerouting priority dstnat; }");
        support::run("nft", &format!("add rule ip docker pre tcp dport 8081 dnat to {HOST}:8080"));
        support::run("nft", "add rule ip docker pre tcp dport 8082 dnat to 192.168.1.1:80");
        let guest = Guest::attach(&slot);
        for (address, port) in [(HOST, 8081), (HOST, 8082), (PUBLIC, 8081), (PUBLIC, 8082)] {
            assert_closed(&guest, address, port);
        }
        assert_eq!(connections.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn case_08_another_sandbox_is_dropped() {
    in_world(|_world| async {
        let (network, slot) = network_and_slot().await;
        let other = open_slot(&network).await;
        let (guest, neighbour) = (Guest::attach(&slot), Guest::attach(&other));
        let connections = neighbour.run(|| counting_server(8080));
        // Inside the neighbour's slot as well, where a mistake in routing would end.
        let in_slot = support::inside(&other.netns(), || counting_server(8080));
        let own_slot_end = Ipv4Addr::new(10, 253, 0, 2 * slot.index() as u8 + 1);
        let other_slot_end = Ipv4Addr::new(10, 253, 0, 2 * other.index() as u8 + 1);
        for address in [other_slot_end, own_slot_end, CHANNEL_HOST, WORKLOAD_GATEWAY] {
            assert_closed(&guest, address, 8080);
        }
        let greeted = guest.run(|| {
            let neighbours = (0..64).map(|number| Ipv4Addr::new(10, 253, 0, number));
            let tries =
                neighbours.map(|one| std::thread::spawn(move || greeting(one, 8080, SILENCE).ok().map(|_| one)));
            let tries: Vec<_> = tries.collect();
            tries.into_iter().filter_map(|one| one.join().expect("no panic")).collect::<Vec<_>>()
        });
        assert_eq!(greeted, Vec::<Ipv4Addr>::new(), "in the block");
        let counts = || [&connections, &in_slot].map(|count| count.load(Ordering::SeqCst));
        assert_eq!(counts(), [0, 0]);
        // It was the walls that kept it out: without them both servers are there.
        take_down_walls(&network, &[&slot, &other]).await;
        support::inside(&slot.netns(), move || greeting(other_slot_end, 8080, support::PATIENCE)).expect("in the slot");
        support::inside(&other.netns(), || greeting(WORKLOAD_GUEST, 8080, support::PATIENCE)).expect("the neighbour");
        assert_eq!(counts(), [1, 1]);
    });
}

/// Removes the rules of slots and of the host, and stops the network, which would put the host's back.
async fn take_down_walls(network: &Network, slots: &[&Slot]) {
    for slot in slots {
        support::inside(&slot.netns(), || support::run("nft", "flush ruleset"));
    }
    network.stop(HostTable::Keep).await.expect("stop");
    support::run("nft", "flush ruleset");
}

/// Whether a datagram with these bytes comes within the time; others are passed over.
fn receives(socket: &UdpSocket, bytes: &[u8], patience: Duration) -> bool {
    let (end, mut buffer) = (Instant::now() + patience, [0; 64]);
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left)).expect("timeout");
        if socket.recv(&mut buffer).is_ok_and(|length| &buffer[..length] == bytes) {
            return true;
        }
    }
    false
}

#[test]
fn case_08_whatever_listens_inside_the_slot_is_dropped_but_names() {
    in_world(|_world| async {
        let (_network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        let connections = support::inside(&slot.netns(), || counting_server(8080));
        let slot_end = Ipv4Addr::new(10, 253, 0, 2 * slot.index() as u8 + 1);
        for address in [WORKLOAD_GATEWAY, slot_end] {
            assert_closed(&guest, address, 8080);
        }
        // The channel's address over the workload's interface, where it does not belong.
        guest.run(|| support::ip("route add 169.254.100.1/32 via 10.254.254.1"));
        assert_closed(&guest, CHANNEL_HOST, 8080);
        assert_eq!(connections.load(Ordering::SeqCst), 0);
        // What the kernel itself would answer on a closed port or to a ping tells nothing either.
        for address in [slot_end, CHANNEL_HOST] {
            assert!(!guest.pings(address), "{address} answers");
        }
    });
}

#[test]
fn case_08_the_guest_cannot_connect_to_the_host_over_the_guest_channel() {
    in_world(|_world| async {
        let (_network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        let connections = support::inside(&slot.netns(), || counting_server(8080));
        assert_closed(&guest, CHANNEL_HOST, 8080);
        // Nor through it to anywhere else.
        guest.run(|| support::ip("route replace default via 169.254.100.1"));
        for address in [PUBLIC, HOST, WORKLOAD_GATEWAY] {
            assert_closed(&guest, address, TCP_PORT);
        }
        assert_eq!(connections.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn case_08_spoofed_source_addresses_are_dropped() {
    in_world(|world| async move {
        let (network, slot) = network_and_slot().await;
        let other = open_slot(&network).await;
        let guest = Guest::attach(&slot);
        let other_end = Ipv4Addr::new(10, 253, 0, 2 * other.index() as u8 + 1);
        let own_end = Ipv4Addr::new(10, 253, 0, 2 * slot.index() as u8 + 1);
        let spoofed = [HOST, PUBLIC, other_end, own_end, WORKLOAD_GATEWAY, Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED];
        for source in spoofed {
            let frame = ethernet(HOST_MAC, GUEST_MAC, IPV4, &udp(source, PUBLIC, UDP_PORT, b"evil"));
            assert_dropped(&world, &guest, &format!("source {source}"), &frame);
        }
    });
}

#[test]
fn case_08_frames_that_are_not_the_guests_own_ipv4_are_dropped() {
    in_world(|world| async move {
        let (_network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        let packet = udp(WORKLOAD_GUEST, PUBLIC, UDP_PORT, b"evil");
        let good = ethernet(HOST_MAC, GUEST_MAC, IPV4, &packet);
        let foreign_mac = ethernet(HOST_MAC, [2, 0, 0, 0, 0, 9], IPV4, &packet);
        assert_dropped(&world, &guest, "a foreign MAC address", &foreign_mac);
        for vlan in [0, 1, 7] {
            assert_dropped(&world, &guest, &format!("VLAN {vlan}"), &tagged(&good, vlan));
        }
        // Loose source route over the public server: the first hop is what a filter sees.
        let route = [&[131, 7, 4][..], &PUBLIC.octets()[..], &[0][..]].concat();
        let routed = ipv4(WORKLOAD_GUEST, PUBLIC, 17, &route, &packet[20..]);
        assert_dropped(&world, &guest, "a source route", &ethernet(HOST_MAC, GUEST_MAC, IPV4, &routed));
        for kind in [0x86dd, 0x88cc, 0x8847, 0x8863] {
            assert_dropped(&world, &guest, &format!("type {kind:x}"), &ethernet(HOST_MAC, GUEST_MAC, kind, &packet));
        }
    });
}

#[test]
fn case_08_false_arp_changes_nothing_and_is_not_answered() {
    in_world(|world| async move {
        let (_network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        let evil = [2, 0, 0, 0, 0, 9];
        let neighbours = || support::run("ip", "-4 neigh show");
        let before = support::inside(&slot.netns(), neighbours);
        for (operation, mac, ip) in [
            (1, evil, WORKLOAD_GUEST),
            (2, evil, WORKLOAD_GUEST),
            (2, GUEST_MAC, Ipv4Addr::new(10, 253, 0, 0)),
            (1, GUEST_MAC, WORKLOAD_GATEWAY),
            (2, GUEST_MAC, Ipv4Addr::new(169, 254, 100, 2)),
        ] {
            let claim = arp(operation, mac, ip, WORKLOAD_GATEWAY);
            assert_dropped(&world, &guest, "ARP", &ethernet([0xff; 6], GUEST_MAC, ARP, &claim));
            assert_dropped(&world, &guest, "ARP", &ethernet([0xff; 6], mac, ARP, &claim));
        }
        let after = support::inside(&slot.netns(), neighbours);
        let permanent = |text: &str| text.lines().filter(|line| line.contains("PERMANENT")).count();
        assert_eq!((permanent(&before), permanent(&after)), (2, 2), "{before}{after}");
        for neighbour in after.lines().filter(|line| line.contains("tap")) {
            assert!(before.contains(neighbour), "new neighbour {neighbour}");
        }
    });
}

#[test]
fn case_08_ipv6_goes_nowhere() {
    in_world(|_world| async {
        let (_network, slot) = network_and_slot().await;
        let inside = support::inside(&slot.netns(), || support::run("ip", "-6 addr show"));
        assert_eq!(inside, "");
        let veth = support::slot_veths().remove(0);
        assert_eq!(support::run("ip", &format!("-6 addr show dev {veth}")), "");
    });
}

/// Turns IPv6 on for an interface of the calling thread's namespace, as a product that had forgotten it would.
fn with_ipv6(interface: &str, address: Ipv6Addr) {
    let off = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    std::fs::write(&off, "0").expect("turns IPv6 on");
    support::ip(&format!("-6 addr add {address}/64 dev {interface} nodad"));
}

#[test]
fn case_08_ipv6_is_dropped_by_the_slot_and_by_the_host_even_where_the_kernel_would_take_it() {
    in_world(|_world| async {
        let (network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        let veth = support::slot_veths().remove(0);
        let at = |network, host| Ipv6Addr::new(0xfd00, 0, 0, network, 0, 0, 0, host);
        let listen = || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, UDP_PORT)).expect("bind");
        let in_slot = support::inside(&slot.netns(), move || {
            with_ipv6("tap0", at(1, 1));
            with_ipv6("uplink", at(2, 2));
            listen()
        });
        with_ipv6(&veth, at(2, 1));
        let on_host = listen();
        let from_guest = |word: &[u8]| {
            guest.inject(&ethernet(HOST_MAC, GUEST_MAC, IPV6, &udp_v6(at(1, 2), at(1, 1), UDP_PORT, word)));
        };
        let from_slot = |word: &'static [u8]| {
            support::inside(&slot.netns(), move || {
                let socket = UdpSocket::bind((at(2, 2), 0)).expect("bind");
                socket.send_to(word, (at(2, 1), UDP_PORT)).expect("send");
            });
        };
        from_guest(b"evil");
        assert!(!receives(&in_slot, b"evil", SILENCE), "the slot took IPv6");
        // Each wall by itself: the slot's is down, and it arrives; the host's still stands.
        support::inside(&slot.netns(), || support::run("nft", "flush ruleset"));
        from_guest(b"good");
        assert!(receives(&in_slot, b"good", support::PATIENCE), "without rules the slot takes it");
        from_slot(b"evil");
        assert!(!receives(&on_host, b"evil", SILENCE), "the host took IPv6");
        take_down_walls(&network, &[]).await;
        from_slot(b"good");
        assert!(receives(&on_host, b"good", support::PATIENCE), "without rules the host takes it");
    });
}

/// The payloads of UDP packets to the link block that are seen in the calling thread's namespace, up to one that ends
/// with `last`.
fn seen_for_the_block(wire: &impl AsRawFd, last: &[u8]) -> Vec<Vec<u8>> {
    let (end, mut seen, mut frame) = (Instant::now() + support::PATIENCE, vec![], [0; 2048]);
    while Instant::now() < end {
        let Ok(length) = recv(wire.as_raw_fd(), &mut frame, MsgFlags::empty()) else { continue };
        // Ethernet, IPv4 without options, UDP; the destination is in 10.253.0.0/16.
        if length > 42 && frame[12..14] == IPV4.to_be_bytes() && frame[30..32] == [10, 253] {
            seen.push(frame[42..length].to_vec());
            if frame[..length].ends_with(last) {
                return seen;
            }
        }
    }
    panic!("{} never came: {seen:?}", String::from_utf8_lossy(last));
}

#[test]
fn case_10_an_answer_to_a_sandbox_that_is_gone_is_not_sent_back_out() {
    in_world(|world| async move {
        let (network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        let (server, wire) = support::inside(&world.internet.netns, || {
            let wire = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll);
            let wire = wire.expect("packet socket");
            setsockopt(&wire, sockopt::ReceiveTimeout, &TimeVal::milliseconds(100)).expect("timeout");
            (UdpSocket::bind((PUBLIC, 7001)).expect("bind"), wire)
        });
        server.set_read_timeout(Some(support::PATIENCE)).expect("timeout");
        // The sandbox keeps its socket, and the host remembers whose it is.
        let kept = guest.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.send_to(b"hello", (PUBLIC, 7001)).expect("send");
            socket
        });
        let (_, sandbox) = server.recv_from(&mut [0; 64]).expect("the sandbox's datagram");
        server.send_to(b"an answer", sandbox).expect("send");
        assert!(receives(&kept, b"an answer", support::PATIENCE));
        slot.close().await;
        for _ in 0..10 {
            server.send_to(b"a secret", sandbox).expect("send");
        }
        // Only the rule keeps it in: without the host's walls the next one does come back.
        network.stop(HostTable::Keep).await.expect("stop");
        support::run("nft", "flush chain inet leapbox_7e57 forward");
        server.send_to(b"without walls", sandbox).expect("send");
        let seen = tokio::task::block_in_place(|| seen_for_the_block(&wire, b"without walls"));
        assert_eq!(seen, [b"without walls"]);
    });
}

/// The tasks of the network before it end in their own time, and keep the block until then.
async fn network_of_a_block_that_was_in_use() -> Arc<Network> {
    let begun = Instant::now();
    loop {
        match Network::start(config()).await {
            Err(NetworkError::Claimed { .. }) if begun.elapsed() < support::PATIENCE => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            started => return started.expect("network"),
        }
    }
}

#[test]
fn the_table_of_another_installation_that_had_the_same_block_cuts_nobody_off() {
    in_world(|_world| async {
        let other = Network::start(NetworkConfig { instance: "dead".into(), ..config() }).await.expect("network");
        other.stop(HostTable::Keep).await.expect("stop");
        drop(other);
        assert!(support::run("nft", "list tables").contains("leapbox_dead"), "its table is still there");
        let network = network_of_a_block_that_was_in_use().await;
        let slot = open_slot(&network).await;
        let guest = Guest::attach(&slot);
        let answer = guest.run(|| greeting(PUBLIC, TCP_PORT, SILENCE).map_err(|error| error.kind()));
        assert!(answer.is_ok(), "{answer:?}");
    });
}

#[test]
fn case_08_nothing_out_there_can_open_a_connection_into_a_sandbox() {
    in_world(|world| async move {
        let (_network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        let connections = guest.run(|| counting_server(8080));
        let slot_end = Ipv4Addr::new(10, 253, 0, 2 * slot.index() as u8 + 1);
        let from_outside = support::inside(&world.internet.netns, move || {
            support::ip(&format!("route add 10.253.0.0/16 via {HOST}"));
            greeting(slot_end, 8080, SILENCE).map_err(|error| error.kind())
        });
        assert_eq!(from_outside, Err(ErrorKind::TimedOut));
        assert_eq!(connections.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn case_08_the_hosts_wall_holds_where_a_slots_own_has_fallen() {
    in_world(|world| async move {
        let (network, slot) = network_and_slot().await;
        let other = open_slot(&network).await;
        let connections = counting_server(8080);
        let (slot_end, other_end) = (Ipv4Addr::new(10, 253, 0, 1), Ipv4Addr::new(10, 253, 0, 3));
        for fallen in [&slot, &other] {
            support::inside(&fallen.netns(), || support::run("nft", "flush ruleset"));
        }
        let inside = support::inside(&slot.netns(), || counting_server(8080));
        let inside_other = support::inside(&other.netns(), || counting_server(8080));
        let closed = support::inside(&slot.netns(), move || {
            assert_eq!(greeting(PUBLIC, TCP_PORT, support::PATIENCE).expect("out"), HOST.to_string());
            let forbidden = FORBIDDEN.iter().map(|address| (address.parse().expect("address"), TCP_PORT));
            let own = [(HOST, 8080), (Ipv4Addr::new(10, 253, 0, 0), 8080), (other_end, 8080)];
            forbidden.chain(own).filter(|(to, port)| greeting(*to, *port, SILENCE / 4).is_ok()).collect::<Vec<_>>()
        });
        assert_eq!(closed, vec![]);
        // From a source of its choice, as root inside the slot.
        support::inside(&slot.netns(), move || {
            for source in [Ipv4Addr::new(93, 184, 216, 77), Ipv4Addr::new(10, 253, 0, 9), other_end] {
                support::ip(&format!("addr add {source}/32 dev lo"));
                let socket = UdpSocket::bind((source, 0)).expect("bind");
                socket.send_to(b"evil", (PUBLIC, UDP_PORT)).expect("send");
            }
            UdpSocket::bind((slot_end, 0)).expect("bind").send_to(b"last", (PUBLIC, UDP_PORT)).expect("send");
        });
        world.internet.wait_for(b"last");
        assert!(!world.internet.arrivals().iter().any(|arrival| arrival.bytes == b"evil"));
        // And nothing new comes in.
        let from_outside = support::inside(&world.internet.netns, move || {
            support::ip(&format!("route add 10.253.0.0/16 via {HOST}"));
            greeting(slot_end, 8080, SILENCE).map_err(|error| error.kind())
        });
        assert_eq!(from_outside, Err(ErrorKind::TimedOut));
        let counts = || [&connections, &inside, &inside_other].map(|count| count.load(Ordering::SeqCst));
        assert_eq!(counts(), [0, 0, 0]);
        // All three are there and would have been reached if the host's wall had not stood.
        take_down_walls(&network, &[]).await;
        support::inside(&slot.netns(), move || {
            support::ip(&format!("addr del {other_end}/32 dev lo"));
            for address in [HOST, other_end] {
                greeting(address, 8080, support::PATIENCE).expect("no wall");
            }
        });
        support::inside(&world.internet.netns, move || greeting(slot_end, 8080, support::PATIENCE)).expect("no wall");
        assert_eq!(counts(), [1, 1, 1]);
    });
}

#[test]
fn broadcast_and_multicast_do_not_leave() {
    in_world(|world| async move {
        let (_network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        for address in [Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 251), Ipv4Addr::new(93, 184, 216, 255)] {
            let frame = ethernet(HOST_MAC, GUEST_MAC, IPV4, &udp(WORKLOAD_GUEST, address, UDP_PORT, b"evil"));
            assert_dropped(&world, &guest, &address.to_string(), &frame);
        }
    });
}

#[test]
fn a_flood_of_connections_is_capped_and_leaves_the_neighbour_alone() {
    in_world(|world| async move {
        let (network, slot) = network_and_slot().await;
        let other = open_slot(&network).await;
        let (guest, neighbour) = (Guest::attach(&slot), Guest::attach(&other));
        for source in 1024..8192u16 {
            let packet = udp_from_port(source, WORKLOAD_GUEST, PUBLIC, UDP_PORT, b"flood");
            guest.inject(&ethernet(HOST_MAC, GUEST_MAC, IPV4, &packet));
            // The kernel's own queue is shorter than the flood.
            if source % 100 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let seen = neighbour.run(|| greeting(PUBLIC, TCP_PORT, support::PATIENCE)).expect("the neighbour gets out");
        assert_eq!(seen, HOST.to_string());
        let flows: usize = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count")
            .expect("conntrack")
            .trim()
            .parse()
            .expect("number");
        let flood = world.internet.arrivals().iter().filter(|arrival| arrival.bytes == b"flood").count();
        assert!(flows <= 4200 && (4000..=4200).contains(&flood), "{flows} connections tracked, {flood} datagrams out");
    });
}

#[test]
fn a_public_server_can_be_pinged_and_the_host_cannot() {
    in_world(|_world| async {
        let (_network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        assert!(guest.pings(PUBLIC));
        for address in [HOST, Ipv4Addr::new(10, 253, 0, 0), Ipv4Addr::new(169, 254, 169, 254)] {
            assert!(!guest.pings(address), "{address} answers");
        }
    });
}

#[test]
fn two_installations_live_side_by_side_and_their_sandboxes_do_not_meet() {
    in_world(|_world| async {
        let one = Network::start(config()).await.expect("first");
        let second = NetworkConfig {
            instance: "beef".into(),
            link_block: "10.252.0.0/16".parse().expect("cidr"),
            base_uid: 300_000,
            ..config()
        };
        let two = Network::start(second).await.expect("second");
        let (slot_one, slot_two) = (open_slot(&one).await, open_slot(&two).await);
        assert_eq!(slot_one.index(), slot_two.index());
        let (guest_one, guest_two) = (Guest::attach(&slot_one), Guest::attach(&slot_two));
        for guest in [&guest_one, &guest_two] {
            assert_eq!(guest.run(|| greeting(PUBLIC, TCP_PORT, support::PATIENCE)).expect("out"), HOST.to_string());
        }
        support::inside(&slot_two.netns(), || counting_server(8080));
        assert_closed(&guest_one, Ipv4Addr::new(10, 252, 0, 1), 8080);
        drop(one);
        assert_eq!(guest_two.run(|| greeting(PUBLIC, TCP_PORT, support::PATIENCE)).expect("out"), HOST.to_string());
    });
}

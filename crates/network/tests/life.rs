//! The pool, adoption, restarts, and sockets into a slot.

mod support;

use leapbox_egress_policy::Policy;
use leapbox_guest_protocol::net::{CHANNEL_GUEST, WORKLOAD_GUEST};
use leapbox_network::{HostTable, Network, NetworkConfig, NetworkError, SlotPolicy, TakeoverObstacle, check_takeover};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::frames::{GUEST_MAC, HOST_MAC, IPV4, ethernet, udp};
use support::guest::Guest;
use support::internet::{PRIVATE, TCP_PORT, UDP_PORT, query};
use support::{PATIENCE, PUBLIC, config, eventually, in_world, network_and_slot, open_slot, slot_policy, slot_veths};
use tokio::io::AsyncReadExt;

/// A second descriptor of a slot's namespace, as the VMM's process gives a restarted server.
fn duplicate(slot: &leapbox_network::Slot) -> OwnedFd {
    slot.netns().try_clone().expect("descriptor")
}

#[test]
fn the_pool_fills_and_refills_and_its_slots_are_taken_at_once() {
    in_world(|_world| async {
        let network = Network::start(config()).await.expect("network");
        network.start_pool();
        eventually("pool", || network.stats(), |stats| stats.prepared == 2).await;
        let slot = network.take().await.expect("slot");
        assert!(slot.index() < 2, "one of the two that were ready; one made for it would have been the third");
        eventually("refilled", || network.stats(), |stats| stats.prepared == 2 && stats.in_use == 1).await;
        slot.close().await;
        eventually("released", || network.stats(), |stats| stats.in_use == 0 && stats.releasing == 0).await;
        network.stop(HostTable::Remove).await.expect("stop");
        assert_eq!(slot_veths(), Vec::<String>::new());
        assert_eq!(support::run("nft", "list tables"), "");
    });
}

#[test]
fn when_all_slots_are_in_use_the_error_says_so_and_a_released_one_can_be_taken() {
    in_world(|_world| async {
        let network = Network::start(NetworkConfig { max_slots: 2, ..config() }).await.expect("network");
        let (one, _two) = (network.take().await.expect("first"), network.take().await.expect("second"));
        let error = network.take().await.expect_err("no third");
        assert!(matches!(error, NetworkError::Exhausted { max_slots: 2, .. }), "{error}");
        one.close().await;
        eventually("released", || network.stats(), |stats| stats.free == 1).await;
        assert_eq!(network.take().await.expect("again").index(), 0);
    });
}

#[test]
fn the_last_slot_of_the_host_is_given_out_even_while_the_pool_prepares_it() {
    in_world(|_world| async {
        let network = Network::start(NetworkConfig { max_slots: 2, ..config() }).await.expect("network");
        network.start_pool();
        let (one, two) = tokio::join!(network.take(), network.take());
        assert_ne!(one.expect("first").index(), two.expect("second").index());
    });
}

#[test]
fn an_index_is_not_free_while_anything_holds_its_namespace() {
    in_world(|_world| async {
        let network = Network::start(NetworkConfig { max_slots: 1, ..config() }).await.expect("network");
        let slot = network.take().await.expect("slot");
        let vmm = duplicate(&slot);
        slot.close().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!((network.stats().free, network.stats().releasing), (0, 1));
        drop(vmm);
        eventually("released", || network.stats(), |stats| stats.free == 1).await;
    });
}

#[test]
fn a_policy_that_comes_after_its_slot_is_gone_is_refused_and_changes_nothing_of_the_next() {
    in_world(|_world| async {
        let network = Network::start(NetworkConfig { max_slots: 1, ..config() }).await.expect("network");
        let slot = network.take().await.expect("slot");
        let late = slot.policy_installer();
        slot.close().await;
        eventually("released", || network.stats(), |stats| stats.free == 1).await;
        let next = network.take().await.expect("the same index");
        let policy = |sandbox: &str| SlotPolicy { sandbox: sandbox.into(), ..slot_policy(Policy::AllowAll) };
        next.policy_installer().install(policy("sbx-next")).await.expect("policy");
        let refused = late.install(policy("sbx-late")).await;
        assert!(matches!(refused, Err(NetworkError::SlotGone { index: 0 })), "{refused:?}");
        let sandboxes: Vec<_> = network.journals().iter().map(|journal| journal.sandbox().to_owned()).collect();
        assert_eq!(sandboxes, ["sbx-next"]);
    });
}

#[test]
fn a_closed_slot_reaches_nothing_though_its_guest_still_runs() {
    in_world(|_world| async {
        let (_network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        let reach = || TcpStream::connect_timeout(&(PUBLIC, TCP_PORT).into(), Duration::from_millis(500)).is_ok();
        assert!(guest.run(reach));
        slot.close().await;
        assert!(!guest.run(reach));
    });
}

#[test]
fn the_taps_belong_to_the_uid_of_the_slot_alone() {
    in_world(|_world| async {
        let (network, slot) = network_and_slot().await;
        let other = open_slot(&network).await;
        assert_eq!(other.uid(), slot.uid() + other.index() - slot.index());
        let owner = support::inside(&slot.netns(), || support::run("ip", "-d link show"));
        let mine = format!("user {}", slot.uid());
        assert_eq!(owner.matches(&mine).count(), 2, "{owner}");
    });
}

#[test]
fn a_socket_into_the_slot_reaches_the_guest_over_the_channel() {
    in_world(|_world| async {
        let (_network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        guest.run(|| {
            let listener = TcpListener::bind((CHANNEL_GUEST, 1024)).expect("bind");
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let _ = stream.write_all(b"agent");
                }
            });
        });
        let slot = std::sync::Arc::new(slot);
        let connector = slot.connector();
        for _ in 0..3 {
            let address = SocketAddrV4::new(CHANNEL_GUEST, 1024);
            let mut stream = connector.connect(address, PATIENCE).await.expect("connect");
            assert!(stream.nodelay().expect("option"));
            let mut word = [0; 5];
            stream.read_exact(&mut word).await.expect("read");
            assert_eq!(&word, b"agent");
        }
        let refused = slot.connect(SocketAddrV4::new(CHANNEL_GUEST, 9), PATIENCE).await.expect_err("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        drop(guest);
        std::sync::Arc::into_inner(slot).expect("the only one").close().await;
        let closed = connector.connect(SocketAddrV4::new(CHANNEL_GUEST, 1024), PATIENCE).await.expect_err("closed");
        assert_eq!(closed.kind(), std::io::ErrorKind::NotConnected);
    });
}

#[test]
fn a_guest_that_does_not_answer_is_given_up_in_time() {
    in_world(|_world| async {
        let (_network, slot) = network_and_slot().await;
        let started = Instant::now();
        let address = SocketAddrV4::new(CHANNEL_GUEST, 1024);
        let error = slot.connect(address, Duration::from_millis(200)).await.expect_err("nobody there");
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(2));
    });
}

#[test]
fn a_restarted_server_adopts_a_running_sandbox_without_breaking_its_connections() {
    in_world(|_world| async {
        let (network, slot) = network_and_slot().await;
        let (index, vmm) = (slot.index(), duplicate(&slot));
        let guest = Guest::attach(&slot);
        let mut stream = guest.run(|| {
            let mut stream = TcpStream::connect((PUBLIC, TCP_PORT)).expect("connect");
            stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
            stream.read_exact(&mut [0; 13]).expect("greeting");
            stream
        });
        let mut echo = move |word: &[u8; 4]| {
            stream.write_all(word).expect("write");
            let mut back = [0; 4];
            stream.read_exact(&mut back).expect("read");
            assert_eq!(&back, word);
        };
        echo(b"one.");
        drop((network, slot));
        echo(b"two.");
        let network = eventually_started().await;
        echo(b"tre.");
        assert_eq!(network.stats().releasing, 1, "the left slot waits to be adopted or to end");
        let adopted = network.adopt(index, vmm).await.expect("adopt");
        echo(b"four");
        adopted.policy_installer().install_again(slot_policy(Policy::AllowAll)).await.expect("policy");
        echo(b"five");
        assert_eq!(adopted.index(), index);
        let resolved = guest.run(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
            let bytes = query(1, "www.example.test.", hickory_resolver::proto::rr::RecordType::A);
            socket.send_to(&bytes, "10.254.254.1:53").expect("send");
            socket.recv(&mut [0; 512]).is_ok()
        });
        assert!(resolved, "the adopted slot's name server answers");
        assert_ne!(network.take().await.expect("new slot").index(), index);
    });
}

#[test]
fn replacing_the_hosts_table_opens_no_gap_and_closes_none() {
    in_world(|world| async move {
        let (network, slot) = network_and_slot().await;
        let (index, vmm) = (slot.index(), duplicate(&slot));
        let guest = Guest::attach(&slot);
        let frame = |to, word| ethernet(HOST_MAC, GUEST_MAC, IPV4, &udp(WORKLOAD_GUEST, to, UDP_PORT, word));
        let (evil, good) = (frame(PRIVATE, b"evil"), frame(PUBLIC, b"good"));
        let stop = std::sync::atomic::AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            let flood = scope.spawn(|| {
                let mut sent = 0;
                let stopped = || stop.load(std::sync::atomic::Ordering::Acquire);
                while !stopped() {
                    guest.inject(&evil);
                    guest.inject(&good);
                    sent += 1;
                    // A full queue on a busy machine drops packets too, which is no gap.
                    while sent % 20 == 0 && sent > world.internet.count(b"good") + 100 && !stopped() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    std::thread::sleep(Duration::from_micros(50));
                }
                sent
            });
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(async {
                    drop((network, slot));
                    for _ in 0..30 {
                        let network = eventually_started().await;
                        let vmm = vmm.try_clone().expect("descriptor");
                        drop(network.adopt(index, vmm).await.expect("adopt"));
                        network.stop(HostTable::Keep).await.expect("stop");
                    }
                })
            });
            stop.store(true, std::sync::atomic::Ordering::Release);
            flood.join().expect("flood")
        });
        assert!(sent > 0);
        let arrived = || world.internet.count(b"good");
        eventually("datagrams of the running sandbox", arrived, |arrived| *arrived == sent).await;
        assert_eq!(world.internet.count(b"evil"), 0);
    });
}

#[test]
fn a_namespace_that_is_not_the_slots_is_not_adopted() {
    in_world(|_world| async {
        let (network, slot) = network_and_slot().await;
        let other = open_slot(&network).await;
        let error = network.adopt(slot.index(), duplicate(&slot)).await.expect_err("in use");
        assert!(matches!(error, NetworkError::IndexInUse { .. }), "{error}");
        let error = network.adopt(9, duplicate(&other)).await.expect_err("no such veth");
        assert!(matches!(error, NetworkError::Miswired { index: 9, .. }), "{error}");
        let error = network.adopt(64, duplicate(&other)).await.expect_err("no such veth either");
        assert!(matches!(error, NetworkError::Miswired { index: 64, .. }), "{error}");
        let error = network.adopt(32_768, duplicate(&other)).await.expect_err("beyond the link block");
        assert!(matches!(error, NetworkError::IndexOutOfRange { index: 32_768, .. }), "{error}");
    });
}

#[test]
fn an_adoption_that_failed_changes_nothing_and_can_be_tried_again() {
    in_world(|_world| async {
        let (network, slot) = network_and_slot().await;
        let other = open_slot(&network).await;
        let (vmm, neighbour) = (duplicate(&slot), duplicate(&other));
        let index = slot.index();
        drop((network, slot, other));
        let network = eventually_started().await;
        let wrong = neighbour.try_clone().expect("descriptor");
        let error = network.adopt(index, wrong).await.expect_err("the neighbour's namespace");
        assert!(matches!(error, NetworkError::Miswired { .. }), "{error}");
        assert_eq!((network.stats().releasing, network.stats().in_use), (2, 0), "both still wait");
        assert_ne!(network.take().await.expect("a new slot").index(), index);
        assert_eq!(network.adopt(index, vmm).await.expect("adopt").index(), index);
        drop(neighbour);
    });
}

#[test]
fn a_slot_beyond_a_limit_that_has_shrunk_is_adopted_and_its_index_not_used_again() {
    in_world(|_world| async {
        let (network, first) = network_and_slot().await;
        let slot = open_slot(&network).await;
        let (index, vmm) = (slot.index(), duplicate(&slot));
        assert_eq!(index, 1);
        drop((network, first, slot));
        let network = eventually_started_with(NetworkConfig { max_slots: 1, ..config() }).await;
        let adopted = network.adopt(index, vmm).await.expect("adopt");
        let guest = Guest::attach(&adopted);
        assert!(guest.run(|| TcpStream::connect_timeout(&(PUBLIC, TCP_PORT).into(), PATIENCE).is_ok()));
        eventually("the first slot's end", || network.stats().free, |free| *free == 1).await;
        drop(guest);
        adopted.close().await;
        eventually("released", || network.stats().releasing, |releasing| *releasing == 0).await;
        assert_eq!(network.take().await.expect("the one slot there is").index(), 0);
        assert_eq!(network.stats().free, 0);
    });
}

#[test]
fn machines_of_another_link_block_or_base_uid_are_told_apart_before_anything_is_touched() {
    in_world(|_world| async {
        let (_network, slot) = network_and_slot().await;
        let (mine, missing) = ((slot.index(), slot.uid()), (9, config().base_uid + 9));
        let check = |config: &NetworkConfig| check_takeover(config, &[mine, missing]).expect("addresses");
        assert_eq!(check(&config()), [None, None]);
        let other_block = NetworkConfig { link_block: "10.252.0.0/16".parse().expect("cidr"), ..config() };
        assert!(matches!(check(&other_block)[..], [Some(TakeoverObstacle::OtherLinkBlock { .. }), None]));
        let other_uids = NetworkConfig { base_uid: config().base_uid + 1, ..config() };
        let found = Some(TakeoverObstacle::OtherBaseUid { configured: other_uids.base_uid, found: config().base_uid });
        assert_eq!(check(&other_uids), [found, found]);
    });
}

/// The claims of a dropped network live on for a moment in a child that another test of this process forks just then.
async fn eventually_started() -> std::sync::Arc<Network> {
    eventually_started_with(config()).await
}

async fn eventually_started_with(config: NetworkConfig) -> std::sync::Arc<Network> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Network::start(config.clone()).await {
            Ok(network) => return network,
            Err(error) if Instant::now() > deadline => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

#[test]
fn a_second_server_of_the_same_instance_or_on_the_same_block_is_refused() {
    in_world(|_world| async {
        let (_network, _slot) = network_and_slot().await;
        let same = Network::start(config()).await.expect_err("same instance");
        assert!(same.to_string().contains("instance 7e57"), "{same}");
        let block =
            Network::start(NetworkConfig { instance: "beef".into(), ..config() }).await.expect_err("same block");
        assert!(block.to_string().contains("link block 10.253.0.0/16"), "{block}");
        let overlapping = NetworkConfig {
            instance: "beef".into(),
            link_block: "10.253.0.0/20".parse().expect("cidr"),
            base_uid: 300_000,
            ..config()
        };
        let used = Network::start(overlapping).await.expect_err("addresses in use");
        assert!(matches!(used, NetworkError::LinkBlockInUse { .. }), "{used}");
    });
}

#[test]
fn a_second_server_whose_uids_overlap_is_refused_and_told_the_setting() {
    in_world(|_world| async {
        let _network = Network::start(config()).await.expect("network");
        let beside = |base_uid| NetworkConfig {
            instance: "beef".into(),
            link_block: "10.252.0.0/16".parse().expect("cidr"),
            base_uid,
            ..config()
        };
        let last = config().base_uid + config().max_slots - 1;
        let refused = Network::start(beside(last)).await.expect_err("one uid in common");
        assert!(matches!(refused, NetworkError::Claimed { setting: "base_uid", .. }), "{refused}");
        assert!(refused.to_string().contains("base_uid"), "{refused}");
        eventually_started_with(beside(last + 1024)).await;
    });
}

#[test]
fn starting_turns_forwarding_on_and_reports_it_once() {
    in_world(|_world| async {
        let path = "/proc/sys/net/ipv4/ip_forward";
        std::fs::write(path, "0").expect("reset");
        let network = Network::start(config()).await.expect("network");
        assert_eq!(network.host_changes().len(), 1);
        assert_eq!((network.host_changes()[0].from.as_str(), network.host_changes()[0].to.as_str()), ("0", "1"));
        network.stop(HostTable::Keep).await.expect("stop");
        drop(network);
        assert!(eventually_started().await.host_changes().is_empty());
    });
}

#[test]
fn doctor_sees_a_firewall_that_drops_forwarded_packets() {
    in_world(|_world| async {
        support::run("nft", "add table ip filter");
        support::run("nft", "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }");
        let facts = leapbox_network::host_facts("7e57");
        assert!(facts.nft.expect("nft").contains("nftables"));
        assert!(facts.tun.is_ok(), "{:?}", facts.tun);
        assert_eq!(facts.forward_drops.len(), 1);
        assert_eq!(facts.forward_drops[0].chain, "FORWARD");
    });
}

#[test]
fn case_42_kill_9_of_a_server_that_holds_slots_leaves_no_interface() {
    in_world(|_world| async {
        let mut server = Command::new(example("hold_slots")).stdout(Stdio::piped()).spawn().expect("example runs");
        let mut line = String::new();
        BufReader::new(server.stdout.as_mut().expect("pipe")).read_line(&mut line).expect("line");
        assert_eq!(line, "ready\n");
        assert_eq!(slot_veths().len(), 5);
        server.kill().expect("kill");
        server.wait().expect("wait");
        eventually("interfaces", slot_veths, Vec::is_empty).await;
        // The table stays: it walls in sandboxes that outlive the server. The next server replaces it. The guard ends
        // with its server.
        let tables = || support::run("nft", "list tables");
        eventually("tables", tables, |listed| listed == "table inet leapbox_7e57\n").await;
        let network = Network::start(config()).await.expect("restart");
        assert_eq!(network.take().await.expect("slot").index(), 0);
        assert_eq!(tables().lines().count(), 2, "the table and its guard");
    });
}

/// An example of this package, which cargo builds with the tests.
fn example(name: &str) -> std::path::PathBuf {
    let test = std::env::current_exe().expect("own path");
    let target = test.parent().and_then(|deps| deps.parent()).expect("target folder");
    target.join("examples").join(name)
}

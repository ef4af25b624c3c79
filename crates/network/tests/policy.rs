//! A slot's policy: closed at birth, opened once, the same after a restart; and what all of it costs the host.

mod support;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::RecordType;
use leapbox_egress_policy::{Cidr, Policy};
use leapbox_guest_protocol::net::WORKLOAD_GATEWAY;
use leapbox_network::{Network, NetworkConfig, NetworkError, Slot};
use serde_json::json;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};
use support::guest::Guest;
use support::internet::{self, FORBIDDEN, OTHER, PRIVATE, QUIC_PORT, TCP_PORT, UDP_PORT, query};
use support::{HOST, PATIENCE, PUBLIC, SILENCE, config, custom, in_world, slot_policy, slot_under};

/// The first bytes a server says, or why not.
fn greeting(address: Ipv4Addr, port: u16) -> Result<String, ErrorKind> {
    greeting_within(address, port, PATIENCE)
}

fn greeting_within(address: Ipv4Addr, port: u16, patience: Duration) -> Result<String, ErrorKind> {
    let connected = TcpStream::connect_timeout(&SocketAddr::from((address, port)), patience);
    let mut stream = connected.map_err(|error| error.kind())?;
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let mut bytes = [0; 64];
    match stream.read(&mut bytes) {
        Ok(0) => Err(ErrorKind::UnexpectedEof),
        Ok(length) => Ok(String::from_utf8_lossy(&bytes[..length]).trim().to_owned()),
        Err(error) => Err(error.kind()),
    }
}

/// What a datagram from the guest comes to.
fn echo(address: Ipv4Addr, port: u16) -> Result<(), ErrorKind> {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
    socket.connect((address, port)).expect("connect");
    socket.set_read_timeout(Some(SILENCE)).expect("timeout");
    socket.send(b"hello").map_err(|error| error.kind())?;
    socket.recv(&mut [0; 64]).map(|_| ()).map_err(|error| error.kind())
}

fn ask(name: &str, kind: RecordType) -> Message {
    Message::from_vec(&answer_to(&query(7, name, kind))).expect("a proper answer")
}

fn answer_to(query: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket.send_to(query, (WORKLOAD_GATEWAY, 53)).expect("send");
    let mut answer = [0; 2048];
    let length = socket.recv(&mut answer).expect("an answer");
    answer[..length].to_vec()
}

/// The same query with EDNS (RFC 6891): an OPT record, which is one more among the additional ones.
fn with_edns(mut query: Vec<u8>) -> Vec<u8> {
    query[11] = 1;
    query.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    query
}

fn code(guest: &Guest, name: &'static str) -> ResponseCode {
    guest.run(move || ask(name, RecordType::A)).metadata.response_code
}

async fn network() -> std::sync::Arc<Network> {
    Network::start(config()).await.expect("network starts")
}

#[test]
fn a_slot_without_a_policy_lets_nothing_out() {
    in_world(|world| async move {
        let network = network().await;
        let slot = network.take().await.expect("slot");
        let guest = Guest::attach(&slot);
        assert!(guest.run(|| greeting(PUBLIC, TCP_PORT)).is_err());
        assert!(guest.run(|| echo(PUBLIC, UDP_PORT)).is_err());
        assert!(!guest.pings(PUBLIC));
        assert_eq!(code(&guest, "www.example.test."), ResponseCode::Refused);
        assert_eq!(world.internet.arrivals(), []);
        assert_eq!(world.internet.questions(), Vec::<String>::new());
    });
}

#[test]
fn case_10_deny_all_lets_no_tcp_udp_icmp_or_name_out_and_counts_what_was_tried() {
    in_world(|world| async move {
        let network = network().await;
        let slot = slot_under(&network, Policy::DenyAll).await;
        let guest = Guest::attach(&slot);
        assert!(guest.run(|| greeting(PUBLIC, TCP_PORT)).is_err());
        assert!(guest.run(|| echo(PUBLIC, UDP_PORT)).is_err());
        assert!(!guest.pings(PUBLIC));
        assert_eq!(code(&guest, "www.example.test."), ResponseCode::Refused);
        assert_eq!((world.internet.arrivals(), world.internet.questions()), (vec![], vec![]));
        let denied = || denials(&network, "deny_all");
        support::eventually("denials", denied, |count| *count >= 4).await;
    });
}

fn denials(network: &Network, rule: &str) -> u64 {
    let numbers = network.journals().into_iter().map(|journal| journal.snapshot());
    numbers.flat_map(|numbers| numbers.denials).filter(|(name, _)| *name == rule).map(|(_, count)| count).sum()
}

#[test]
fn custom_reaches_its_networks_directly_with_any_protocol_and_no_other() {
    in_world(|world| async move {
        let network = network().await;
        let policy = custom(json!({ "mode": "custom", "allow_cidrs": ["93.184.216.34/32"] }));
        let slot = slot_under(&network, policy).await;
        let guest = Guest::attach(&slot);
        assert_eq!(guest.run(|| greeting(PUBLIC, TCP_PORT)), Ok(HOST.to_string()));
        assert_eq!(guest.run(|| echo(PUBLIC, UDP_PORT)), Ok(()));
        assert!(guest.pings(PUBLIC));
        assert_eq!(echo(OTHER, UDP_PORT), Ok(()), "the host reaches it");
        let before = world.internet.arrivals();
        assert!(guest.run(|| greeting(OTHER, TCP_PORT)).is_err());
        let refused = guest.run(|| echo(OTHER, UDP_PORT)).expect_err("refused");
        assert_ne!(refused, ErrorKind::WouldBlock, "the guest is told at once");
        assert!(!guest.pings(OTHER));
        assert_eq!(world.internet.arrivals(), before);
        support::eventually("denials", || denials(&network, "packet"), |count| *count >= 2).await;
    });
}

#[test]
fn case_21_quic_is_closed_under_custom_even_to_an_allowed_network() {
    in_world(|world| async move {
        let network = network().await;
        let policy = custom(json!({ "mode": "custom", "allow_cidrs": ["93.184.216.0/24"] }));
        let slot = slot_under(&network, policy).await;
        let guest = Guest::attach(&slot);
        let refused = guest.run(|| echo(PUBLIC, QUIC_PORT)).expect_err("closed");
        assert_ne!(refused, ErrorKind::WouldBlock, "the guest is told at once");
        assert_eq!(world.internet.arrivals(), []);
        support::eventually("denials", || denials(&network, "packet"), |count| *count >= 1).await;
        assert_eq!(guest.run(|| echo(PUBLIC, UDP_PORT)), Ok(()));
        // Nothing but the policy has closed it.
        let open = slot_under(&network, Policy::AllowAll).await;
        assert_eq!(Guest::attach(&open).run(|| echo(PUBLIC, QUIC_PORT)), Ok(()));
        assert_eq!(world.internet.arrivals().len(), 2);
    });
}

#[test]
fn case_21_quic_and_any_other_udp_is_closed_to_an_address_that_is_allowed_by_name() {
    in_world(|world| async move {
        let network = network().await;
        let policy = custom(json!({ "mode": "custom", "allow_domains": ["www.example.test"] }));
        let slot = slot_under(&network, policy).await;
        let guest = Guest::attach(&slot);
        let answer = guest.run(|| ask("www.example.test.", RecordType::A));
        assert_eq!(internet::addresses(&answer), [PUBLIC]);
        for port in [QUIC_PORT, UDP_PORT] {
            assert_eq!(echo(PUBLIC, port), Ok(()), "the host reaches it");
            let before = world.internet.arrivals();
            let refused = guest.run(move || echo(PUBLIC, port)).expect_err("closed");
            assert_ne!(refused, ErrorKind::WouldBlock, "the guest is told at once");
            assert_eq!(world.internet.arrivals(), before);
        }
        support::eventually("denials", || denials(&network, "packet"), |count| *count >= 2).await;
    });
}

#[test]
fn custom_answers_for_allowed_names_only_and_asks_nobody_for_others() {
    in_world(|world| async move {
        let network = network().await;
        let policy = custom(json!({ "mode": "custom", "allow_domains": ["www.example.test", "*.wild.test"] }));
        let slot = slot_under(&network, policy).await;
        let guest = Guest::attach(&slot);
        assert_eq!(code(&guest, "WWW.example.test."), ResponseCode::NoError);
        assert_eq!(code(&guest, "a.b.wild.test."), ResponseCode::NXDomain, "asked, and there is none");
        let asked = world.internet.questions();
        for name in ["example.test.", "wild.test.", "big.example.test.", "www.example.test.evil.test."] {
            assert_eq!(code(&guest, name), ResponseCode::Refused, "{name}");
        }
        let empty = guest.run(|| ask("www.example.test.", RecordType::AAAA));
        assert_eq!((empty.metadata.response_code, empty.answers.len()), (ResponseCode::NoError, 0));
        let null = guest.run(|| ask("www.example.test.", RecordType::NULL));
        assert_eq!(null.metadata.response_code, ResponseCode::Refused);
        assert_eq!(world.internet.questions(), asked, "no packet for what is not allowed");
    });
}

#[test]
fn case_11_questions_below_a_wildcard_are_rationed_and_the_rest_asks_nobody() {
    in_world(|world| async move {
        let network = network().await;
        let policy = custom(json!({ "mode": "custom", "allow_domains": ["*.wild.test"] }));
        let slot = slot_under(&network, policy).await;
        let guest = Guest::attach(&slot);
        let began = Instant::now();
        // One after the other: of a flood, most is dropped before the ration is looked at.
        let answered = guest.run(|| {
            let is_refused = |number: &u64| {
                let answer = ask(&format!("n{number}.wild.test."), RecordType::TXT);
                answer.metadata.response_code == ResponseCode::Refused
            };
            (0..5000_u64).find(is_refused).expect("a question is refused")
        });
        let at_most = 150 + 30 * (began.elapsed().as_secs() + 1);
        assert!((150..=at_most).contains(&answered), "{answered} of at most {at_most} were answered");
        assert_eq!(denials(&network, "too_many"), 1);
        let asked = world.internet.questions();
        assert!(!asked.iter().any(|question| question.contains(&format!("n{answered}."))), "{asked:?}");
    });
}

#[test]
fn who_understands_extended_errors_is_told_that_a_refused_name_is_prohibited() {
    in_world(|_world| async {
        let network = network().await;
        let policy = custom(json!({ "mode": "custom", "allow_domains": ["www.example.test"] }));
        let slot = slot_under(&network, policy).await;
        let guest = Guest::attach(&slot);
        let is_prohibited = |name: &'static str| {
            let answer = guest.run(move || answer_to(&with_edns(query(7, name, RecordType::A))));
            // RFC 8914: option 15 has two bytes here, and 18 is "Prohibited".
            answer.windows(6).any(|bytes| bytes == [0, 15, 0, 2, 0, 18])
        };
        assert!(is_prohibited("example.test."));
        assert!(!is_prohibited("www.example.test."));
    });
}

#[test]
fn a_private_network_opens_only_if_operator_and_policy_both_name_it_and_only_to_that_slot() {
    in_world(|_world| async {
        let operator = vec![Cidr::parse("10.1.0.0/16").expect("cidr")];
        let with = NetworkConfig { egress_private_cidrs: operator.clone(), ..config() };
        let network = Network::start(with).await.expect("network");
        let json = json!({ "mode": "custom", "allow_cidrs": ["10.1.2.3/32", "93.184.216.0/24"] });
        let slot = slot_under(&network, Policy::parse(&json, &operator).expect("policy")).await;
        let wide = custom(json!({ "mode": "custom", "allow_cidrs": ["0.0.0.0/0"] }));
        let other = slot_under(&network, wide).await;
        let (guest, stranger) = (Guest::attach(&slot), Guest::attach(&other));
        assert_eq!(guest.run(|| greeting(PRIVATE, TCP_PORT)), Ok(HOST.to_string()));
        assert_eq!(stranger.run(|| echo(PRIVATE, UDP_PORT)).expect_err("closed"), ErrorKind::WouldBlock);
        assert_eq!(stranger.run(|| greeting(PUBLIC, TCP_PORT)), Ok(HOST.to_string()));
        // Nor do the metadata address and what else is nobody's open to a network as wide as this.
        for address in FORBIDDEN {
            let address: Ipv4Addr = address.parse().expect("address");
            assert_eq!(greeting(address, TCP_PORT), Ok(HOST.to_string()), "the host reaches it");
            let said = stranger.run(move || greeting_within(address, TCP_PORT, SILENCE));
            assert!(said.is_err(), "{address} greeted: {said:?}");
        }
        assert!(support::run("nft", "list set inet leapbox_7e57 named").contains("10.1.2.3"));
        drop(guest);
        slot.close().await;
        let named = || support::run("nft", "list set inet leapbox_7e57 named");
        support::eventually("closed again", named, |listed| !listed.contains("10.1.2.3")).await;
    });
}

#[test]
fn the_host_itself_opens_only_by_its_single_address() {
    in_world(|_world| async {
        let listener = std::net::TcpListener::bind((HOST, 8123)).expect("bind");
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = std::io::Write::write_all(&mut stream, b"the host\n");
            }
        });
        let host = "93.184.216.2/32";
        for (entry, named, reached) in
            [(host, host, true), ("93.184.216.0/30", "93.184.216.0/30", false), ("93.184.216.0/24", host, false)]
        {
            let operator = vec![Cidr::parse(entry).expect("cidr")];
            let with = NetworkConfig { egress_private_cidrs: operator.clone(), ..config() };
            let network = Network::start(with).await.expect("network");
            let json = json!({ "mode": "custom", "allow_cidrs": [named] });
            let slot = slot_under(&network, Policy::parse(&json, &operator).expect("policy")).await;
            let guest = Guest::attach(&slot);
            let said = guest.run(move || {
                let connected = TcpStream::connect_timeout(&SocketAddr::from((HOST, 8123)), SILENCE);
                connected.is_ok()
            });
            assert_eq!(said, reached, "{entry} {named}");
            drop(guest);
            slot.close().await;
            network.stop(leapbox_network::HostTable::Remove).await.expect("stop");
        }
    });
}

#[test]
fn case_28_without_the_server_custom_sandboxes_have_their_networks_and_nothing_else() {
    in_world(|world| async move {
        let network = network().await;
        let json =
            json!({ "mode": "custom", "allow_cidrs": ["93.184.216.34/32"], "allow_domains": ["www.example.test"] });
        let slot = slot_under(&network, custom(json.clone())).await;
        let (index, vmm) = (slot.index(), slot.netns().try_clone().expect("descriptor"));
        let guest = Guest::attach(&slot);
        drop((network, slot));
        let asked = world.internet.questions();
        assert!(guest.run(|| greeting(Ipv4Addr::new(93, 184, 216, 53), TCP_PORT)).is_err());
        assert_eq!(guest.run(|| greeting(PUBLIC, TCP_PORT)), Ok(HOST.to_string()), "the kernel needs no server");
        assert_eq!(world.internet.questions(), asked);
        let network = started_again().await;
        let adopted = network.adopt(index, vmm).await.expect("adopt");
        assert_eq!(code(&guest, "www.example.test."), ResponseCode::Refused, "no policy yet, no names");
        adopted.policy_installer().install_again(slot_policy(custom(json))).await.expect("policy");
        assert_eq!(code(&guest, "www.example.test."), ResponseCode::NoError);
        assert_eq!(guest.run(|| greeting(PUBLIC, TCP_PORT)), Ok(HOST.to_string()));
        assert!(guest.run(|| greeting(Ipv4Addr::new(93, 184, 216, 53), TCP_PORT)).is_err());
    });
}

/// The previous server's claim on the instance goes with its last descriptor.
async fn started_again() -> std::sync::Arc<Network> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Network::start(config()).await {
            Ok(network) => return network,
            Err(NetworkError::Claimed { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_slot_has_one_policy_in_its_life() {
    in_world(|_world| async {
        let network = network().await;
        let slot = slot_under(&network, Policy::DenyAll).await;
        let again = slot.policy_installer().install(slot_policy(Policy::AllowAll)).await;
        assert!(matches!(again, Err(NetworkError::PolicySet { .. })), "{again:?}");
    });
}

/// Rules of the root namespace, as nft counts them.
fn rules() -> usize {
    support::run("nft", "-j list ruleset").matches("\"rule\":").count()
}

#[test]
fn overlapping_and_repeated_networks_of_operator_and_policy_are_no_fault() {
    in_world(|_world| async {
        let entries = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "10.1.2.3/32", "10.1.0.0/16"];
        let operator: Vec<Cidr> = entries.iter().map(|entry| Cidr::parse(entry).expect("cidr")).collect();
        let with = NetworkConfig { egress_private_cidrs: operator.clone(), ..config() };
        let network = Network::start(with).await.expect("network");
        let json = json!({ "mode": "custom", "allow_cidrs": ["10.1.0.0/16", "10.1.2.0/24", "93.184.216.0/24"] });
        let slot = slot_under(&network, Policy::parse(&json, &operator).expect("policy")).await;
        let guest = Guest::attach(&slot);
        assert_eq!(guest.run(|| greeting(PRIVATE, TCP_PORT)), Ok(HOST.to_string()));
        assert_eq!(guest.run(|| greeting(PUBLIC, TCP_PORT)), Ok(HOST.to_string()));
    });
}

#[test]
fn the_hosts_rules_are_as_many_with_a_hundred_policies_as_with_none_and_a_policy_is_quickly_in_force() {
    in_world(|_world| async {
        let operator = vec![Cidr::parse("10.0.0.0/8").expect("cidr")];
        let with = NetworkConfig { max_slots: 128, egress_private_cidrs: operator.clone(), ..config() };
        let network = Network::start(with).await.expect("network");
        let before = rules();
        let mut slots: Vec<Slot> = Vec::new();
        let mut took = Vec::new();
        for index in 0..100 {
            let slot = network.take().await.expect("slot");
            let domains: Vec<String> = (0..50).map(|n| format!("n{n}.s{index}.example.com")).collect();
            let cidrs: Vec<String> = (0..10).map(|n| format!("93.{n}.{index}.0/24")).collect();
            let policy = custom(json!({ "mode": "custom", "allow_domains": domains, "allow_cidrs": cidrs }));
            let started = Instant::now();
            slot.policy_installer().install(slot_policy(policy)).await.expect("policy");
            took.push(started.elapsed());
            slots.push(slot);
        }
        took.sort();
        println!("a policy is in force after {:?} (median), {:?} (slowest) with up to 100 slots", took[50], took[99]);
        assert_eq!(rules(), before, "the number of rules does not depend on the number of sandboxes");
        // Beside other tests on a busy machine this shows only that nothing waits; `leapbox-bench` has the promise.
        assert!(took[50] < Duration::from_millis(500), "median {:?}", took[50]);
    });
}

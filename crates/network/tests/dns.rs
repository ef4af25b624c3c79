//! Name service inside a slot.

mod support;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::RecordType;
use leapbox_guest_protocol::net::WORKLOAD_GATEWAY;
use leapbox_network::{Network, NetworkConfig};
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::time::Duration;
use support::guest::Guest;
use support::internet::{addresses, query};
use support::{NAME_SERVER, PATIENCE, PUBLIC, SILENCE, config, in_world, network_and_slot, open_slot};

fn ask_udp(bytes: &[u8], patience: Duration) -> Option<Message> {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
    socket.set_read_timeout(Some(patience)).expect("timeout");
    socket.send_to(bytes, (WORKLOAD_GATEWAY, 53)).expect("send");
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).ok()?;
    Some(Message::from_vec(&buffer[..length]).expect("a proper answer"))
}

fn ask_tcp(stream: &mut TcpStream, bytes: &[u8]) -> Message {
    let framed = [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    stream.write_all(&framed).expect("write");
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("length");
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).expect("answer");
    Message::from_vec(&answer).expect("a proper answer")
}

#[test]
fn a_name_is_resolved_through_the_hosts_name_server_over_udp_and_tcp() {
    in_world(|world| async move {
        let (network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        let (udp, tcp) = guest.run(|| {
            let bytes = query(4711, "WWW.example.test.", RecordType::A);
            let mut stream = TcpStream::connect((WORKLOAD_GATEWAY, 53)).expect("connect");
            ask_tcp(&mut stream, &bytes);
            (ask_udp(&bytes, PATIENCE).expect("answer"), ask_tcp(&mut stream, &bytes))
        });
        for answer in [udp, tcp] {
            assert_eq!(answer.metadata.id, 4711);
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            assert!(answer.metadata.recursion_available && !answer.metadata.truncation);
            assert_eq!(answer.queries[0].name().to_ascii(), "WWW.example.test.");
            assert_eq!(addresses(&answer), vec![IpAddr::V4(PUBLIC)]);
        }
        assert!(!world.internet.questions().is_empty());
        assert_eq!(network.stats().dns.answered, 3);
    });
}

#[test]
fn names_that_do_not_exist_and_names_without_such_a_record_are_told_apart() {
    in_world(|_world| async {
        let (_network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        let code = |name: &'static str, kind| {
            let answer = guest.run(move || ask_udp(&query(1, name, kind), PATIENCE)).expect("answer");
            (answer.metadata.response_code, answer.answers.len())
        };
        assert_eq!(code("missing.example.test.", RecordType::A), (ResponseCode::NXDomain, 0));
        assert_eq!(code("www.example.test.", RecordType::AAAA), (ResponseCode::NoError, 0));
    });
}

#[test]
fn an_answer_too_long_for_a_datagram_is_truncated_and_whole_over_tcp() {
    in_world(|_world| async {
        let (_network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        let (udp, tcp) = guest.run(|| {
            let bytes = query(1, "big.example.test.", RecordType::TXT);
            let mut stream = TcpStream::connect((WORKLOAD_GATEWAY, 53)).expect("connect");
            (ask_udp(&bytes, PATIENCE).expect("answer"), ask_tcp(&mut stream, &bytes))
        });
        assert!(udp.metadata.truncation && udp.answers.is_empty());
        assert!(!tcp.metadata.truncation);
        assert!(tcp.answers[0].data.to_string().len() >= 5000);
    });
}

#[test]
fn what_is_not_a_plain_question_is_refused_or_ignored() {
    in_world(|world| async move {
        let (_network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        let code =
            |bytes: Vec<u8>| guest.run(move || ask_udp(&bytes, SILENCE)).map(|answer| answer.metadata.response_code);
        let question = |kind| query(1, "www.example.test.", kind);
        assert_eq!(code(question(RecordType::ANY)), Some(ResponseCode::NotImp));
        assert_eq!(code(question(RecordType::AXFR)), Some(ResponseCode::Refused));
        let mut chaos = question(RecordType::A);
        *chaos.last_mut().expect("class") = 3;
        assert_eq!(code(chaos), Some(ResponseCode::Refused));
        let mut update = question(RecordType::A);
        update[2] |= 5 << 3;
        assert_eq!(code(update), Some(ResponseCode::NotImp));
        let mut cut = question(RecordType::A);
        cut.truncate(20);
        assert_eq!(code(cut), Some(ResponseCode::FormErr));
        let mut response = question(RecordType::A);
        response[2] |= 0x80;
        assert_eq!(code(response), None);
        assert_eq!(code(vec![1, 2, 3]), None);
        assert_eq!(code(vec![0; 1400]), None);
        assert_eq!(world.internet.questions(), Vec::<String>::new());
    });
}

#[test]
fn without_a_name_server_the_answer_is_servfail_at_once() {
    in_world(|_world| async {
        let without = NetworkConfig { dns_upstreams: Some(vec![]), ..config() };
        let network = Network::start(without).await.expect("network");
        let slot = open_slot(&network).await;
        let guest = Guest::attach(&slot);
        let answer = guest.run(|| ask_udp(&query(1, "www.example.test.", RecordType::A), PATIENCE)).expect("answer");
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    });
}

#[test]
fn another_resolver_out_there_can_be_asked_directly() {
    in_world(|world| async move {
        let (_network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        let answered = guest.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
            socket.send_to(&query(1, "www.example.test.", RecordType::A), (NAME_SERVER, 53)).expect("send");
            socket.recv(&mut [0; 512]).is_ok()
        });
        assert!(answered, "asked out there: {:?}", world.internet.questions());
    });
}

#[test]
fn a_flood_of_unanswerable_queries_is_dropped_and_the_neighbour_is_served() {
    in_world(|world| async move {
        let (network, slot) = network_and_slot().await;
        let other = open_slot(&network).await;
        let (guest, neighbour) = (Guest::attach(&slot), Guest::attach(&other));
        guest.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            for number in 0..3000u16 {
                let bytes = query(number, &format!("slow.n{number}.test."), RecordType::A);
                let _ = socket.send_to(&bytes, (WORKLOAD_GATEWAY, 53));
            }
        });
        let bytes = query(1, "www.example.test.", RecordType::A);
        let answer = neighbour.run(move || ask_udp(&bytes, PATIENCE)).expect("the neighbour is served");
        assert_eq!(addresses(&answer), vec![IpAddr::V4(PUBLIC)]);
        let asked = world.internet.questions();
        let slow: std::collections::BTreeSet<_> =
            asked.iter().filter(|question| question.starts_with("slow")).collect();
        assert!(slow.len() <= 32, "{} of the flood's names were forwarded", slow.len());
        assert!(network.stats().dns.dropped > 0);
    });
}

#[test]
fn tcp_connections_to_the_name_server_are_few() {
    in_world(|_world| async {
        let (_network, slot) = network_and_slot().await;
        let guest = Guest::attach(&slot);
        let served = guest.run(|| {
            let bytes = query(1, "www.example.test.", RecordType::A);
            let framed = [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat();
            // One too many is reset, and its reset may be here before the connection is.
            let mut streams: Vec<_> = (0..20).filter_map(|_| TcpStream::connect((WORKLOAD_GATEWAY, 53)).ok()).collect();
            let answered = |stream: &mut TcpStream| {
                stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
                stream.write_all(&framed).is_ok() && stream.read_exact(&mut [0; 2]).is_ok()
            };
            streams.iter_mut().map(answered).filter(|answered| *answered).count()
        });
        assert_eq!(served, 8);
    });
}

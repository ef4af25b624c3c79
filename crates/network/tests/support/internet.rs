//! The fake internet: one namespace that has every address a test cares about, public and private.

use super::{NAME_SERVER, PATIENCE, PUBLIC, inside, ip, new_netns, path_of};
use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, TXT};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Addresses no sandbox may reach, all of which exist out there and answer the host.
pub const FORBIDDEN: &[&str] = &[
    "10.1.2.3",
    "100.64.1.1",
    "169.254.169.254",
    "172.16.5.5",
    "192.0.0.9",
    "192.0.2.7",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.7",
];

/// The one of these where datagrams are remembered too.
pub const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);

/// A second public server.
pub const OTHER: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 1);

/// TCP port of the server that greets with the address it sees, then echoes.
pub const TCP_PORT: u16 = 80;
/// UDP port of the servers that remember what they get, and echo.
pub const UDP_PORT: u16 = 7000;
/// Where [`PUBLIC`] does so too.
pub const QUIC_PORT: u16 = 443;
/// A flood that comes faster than it is read: the kernel cuts this to what it allows.
const RECEIVE_BUFFER: usize = 1 << 20;

/// One datagram that arrived out there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    pub from: SocketAddr,
    pub bytes: Vec<u8>,
}

pub struct Internet {
    pub netns: Arc<OwnedFd>,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    /// Questions the name server got, as "NAME TYPE".
    questions: Arc<Mutex<Vec<String>>>,
}

impl Internet {
    /// Makes the namespace, a veth `up0` from `root` to it, and its servers.
    pub fn start(root: &OwnedFd) -> Self {
        let netns = Arc::new(new_netns());
        let root = path_of(root);
        let (arrivals, questions) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (log, asked) = (arrivals.clone(), questions.clone());
        inside(&netns, move || {
            ip(&format!("link add inet0 type veth peer name up0 netns {root}"));
            ip("link set inet0 up");
            for address in ["93.184.216.1/24", "93.184.216.34/24", "93.184.216.53/24"] {
                ip(&format!("addr add {address} dev inet0"));
            }
            for address in FORBIDDEN {
                ip(&format!("addr add {address}/32 dev lo"));
            }
            let tcp = TcpListener::bind(("0.0.0.0", TCP_PORT)).expect("bind");
            std::thread::spawn(move || tcp.incoming().flatten().for_each(greet));
            for listening in [(PUBLIC, UDP_PORT), (PUBLIC, QUIC_PORT), (OTHER, UDP_PORT), (PRIVATE, UDP_PORT)] {
                let (udp, log) = (UdpSocket::bind(listening).expect("bind"), log.clone());
                setsockopt(&udp, sockopt::RcvBuf, &RECEIVE_BUFFER).expect("buffer");
                std::thread::spawn(move || remember(&udp, &log));
            }
            // Bound to the one address, or the kernel would answer from another of this interface's.
            let udp = UdpSocket::bind((NAME_SERVER, 53)).expect("bind");
            let tcp = TcpListener::bind((NAME_SERVER, 53)).expect("bind");
            let asked_too = asked.clone();
            std::thread::spawn(move || name_server_udp(&udp, &asked));
            std::thread::spawn(move || tcp.incoming().flatten().for_each(|stream| name_server_tcp(stream, &asked_too)));
        });
        Self { netns, arrivals, questions }
    }

    pub fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().expect("lock").clone()
    }

    /// How often these bytes have arrived.
    pub fn count(&self, bytes: &[u8]) -> usize {
        self.arrivals.lock().expect("lock").iter().filter(|arrival| arrival.bytes == bytes).count()
    }

    pub fn questions(&self) -> Vec<String> {
        self.questions.lock().expect("lock").clone()
    }

    /// Waits until a datagram with these bytes has arrived.
    pub fn wait_for(&self, bytes: &[u8]) -> Arrival {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.arrivals().into_iter().find(|arrival| arrival.bytes == bytes) {
                return found;
            }
            assert!(Instant::now() < deadline, "nothing but {:?} arrived", self.arrivals());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn greet(mut stream: TcpStream) {
    std::thread::spawn(move || {
        let peer = stream.peer_addr().expect("peer").ip();
        let _ = stream.write_all(format!("{peer}\n").as_bytes());
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    });
}

fn remember(socket: &UdpSocket, log: &Mutex<Vec<Arrival>>) {
    let mut buffer = [0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        log.lock().expect("lock").push(Arrival { from, bytes: buffer[..length].to_vec() });
        let _ = socket.send_to(&buffer[..length], from);
    }
}

/// `www.example.test` has an address, `big.example.test` a text that fits no datagram, `slow.*` no answer, all else
/// does not exist.
fn name_server_answer(query: &[u8], asked: &Mutex<Vec<String>>) -> Option<Message> {
    let request = Message::from_vec(query).expect("our resolver asks properly");
    let question = request.queries.first().expect("one question").clone();
    asked.lock().expect("lock").push(format!("{} {}", question.name(), question.query_type()));
    let mut response = Message::response(request.metadata.id, OpCode::Query);
    response.metadata.recursion_available = true;
    response.add_query(question.clone());
    let name = question.name().clone();
    match (name.to_ascii().to_ascii_lowercase().as_str(), question.query_type()) {
        ("www.example.test.", RecordType::A) => {
            let address = RData::A(A(Ipv4Addr::new(93, 184, 216, 34)));
            response.add_answer(Record::from_rdata(name, 300, address));
        }
        ("www.example.test.", _) => {}
        ("big.example.test.", RecordType::TXT) => {
            let text = RData::TXT(TXT::new(vec!["x".repeat(250); 20]));
            response.add_answer(Record::from_rdata(name, 300, text));
        }
        (name, _) if name.starts_with("slow.") => return None,
        _ => response.metadata.response_code = ResponseCode::NXDomain,
    }
    Some(response)
}

fn name_server_udp(socket: &UdpSocket, asked: &Mutex<Vec<String>>) {
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let Some(response) = name_server_answer(&buffer[..length], asked) else { continue };
        let mut bytes = response.to_vec().expect("encodes");
        if bytes.len() > 1232 {
            bytes = response.truncate().to_vec().expect("encodes");
        }
        let _ = socket.send_to(&bytes, from);
    }
}

fn name_server_tcp(mut stream: TcpStream, asked: &Mutex<Vec<String>>) {
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query).expect("whole query");
        let Some(response) = name_server_answer(&query, asked) else { continue };
        let bytes = response.to_vec().expect("encodes");
        let framed = [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat();
        let _ = stream.write_all(&framed);
    }
}

/// A DNS query's bytes.
pub fn query(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    use hickory_resolver::proto::op::{MessageType, Query};
    use hickory_resolver::proto::rr::Name;
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("name"), kind));
    message.to_vec().expect("encodes")
}

/// Addresses in an answer.
pub fn addresses(message: &Message) -> Vec<IpAddr> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

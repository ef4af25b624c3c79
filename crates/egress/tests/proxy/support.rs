//! A world of its own for each test: a "host" namespace with the proxy and a fake internet on its loopback, and a
//! guest's namespace whose TCP is redirected to the proxy as a slot's rules do. Nothing here touches the machine's own
//! network.

use leapbox_egress::{EgressContext, Journal, NameServer, Proxy, serve};
use leapbox_egress_policy::{DomainName, Evaluator, Policy};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Where `www.good.example` lives; the same server has another tenant, `evil.example`.
pub const GOOD: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
/// A second address of the fake internet.
pub const OTHER: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 35);
/// An address of the fake internet where nobody lives.
pub const NOBODY: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 99);
/// How long something that must arrive may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(15);

const PORT: u16 = 15001;
const GATEWAY: &str = "10.254.254.1";

/// What the sandbox's name server would know.
#[derive(Default)]
pub struct Table {
    names: Mutex<HashMap<String, Vec<Ipv4Addr>>>,
    answered: Mutex<HashMap<Ipv4Addr, String>>,
}

impl Table {
    pub fn set(&self, name: &str, addresses: &[Ipv4Addr]) {
        self.names.lock().expect("lock").insert(name.into(), addresses.to_vec());
    }

    /// The guest has looked the name up, and this was the answer.
    pub fn answer(&self, name: &str, address: Ipv4Addr) {
        self.answered.lock().expect("lock").insert(address, name.into());
    }
}

#[async_trait::async_trait]
impl NameServer for Table {
    async fn resolve(&self, name: &DomainName) -> Vec<Ipv4Addr> {
        self.names.lock().expect("lock").get(name.as_str()).cloned().unwrap_or_default()
    }

    fn answered(&self, address: Ipv4Addr) -> Option<DomainName> {
        let answered = self.answered.lock().expect("lock");
        answered.get(&address).map(|name| DomainName::parse(name).expect("a name"))
    }
}

pub struct World {
    pub names: Arc<Table>,
    pub journal: Arc<Journal>,
    pub context: Arc<EgressContext>,
    /// The proxy's task of this sandbox.
    pub serving: JoinHandle<()>,
    guest: OwnedFd,
}

/// Runs an async test in a fresh world, under a policy.
pub fn in_world<F, Fut>(policy: Value, test: F)
where
    F: FnOnce(World) -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("tests run as root");
        let guest = wire();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("runtime").block_on(async {
            let policy = Policy::parse(&policy, &[]).expect("a policy");
            test(World::start(policy, guest).await).await;
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A custom policy that allows `good.example` and all below it.
pub fn good() -> Value {
    serde_json::json!({ "mode": "custom", "allow_domains": ["good.example", "*.good.example"] })
}

impl World {
    async fn start(policy: Policy, guest: OwnedFd) -> Self {
        let names = Arc::new(Table::default());
        names.set("www.good.example", &[GOOD]);
        let journal = Arc::new(Journal::new("test".into()));
        let evaluator = Arc::new(Evaluator::new(Arc::new(policy), Vec::new()));
        let context =
            EgressContext::new(evaluator, Arc::clone(&names) as Arc<dyn NameServer>, Arc::clone(&journal), None);
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await.expect("the proxy's port");
        let proxy = Proxy::trusting(rustls::RootCertStore::empty()).expect("a proxy");
        let serving = tokio::spawn(serve(proxy, Arc::clone(&context), listener));
        Self { names, journal, context, serving, guest }
    }

    /// The guest connects, as it thinks, to an address.
    pub async fn connect(&self, address: Ipv4Addr, port: u16) -> TcpStream {
        self.try_connect(SocketAddr::from((address, port))).await.expect("redirected to the proxy")
    }

    /// The same, when it may be refused.
    pub async fn try_connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        let guest = self.guest.try_clone().expect("descriptor");
        let connect = move || {
            setns(&guest, CloneFlags::CLONE_NEWNET).expect("enter namespace");
            let stream = std::net::TcpStream::connect(to)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        // A thread of its own: it stays in the guest's namespace.
        let (tell, told) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || tell.send(connect()));
        told.await.expect("the thread tells").and_then(TcpStream::from_std)
    }

    /// The guest dials the proxy itself, which nobody redirects.
    pub async fn connect_to_proxy(&self) -> std::io::Result<TcpStream> {
        self.try_connect(SocketAddr::new(GATEWAY.parse().expect("an address"), PORT)).await
    }

    pub fn denials(&self, rule: &str) -> u64 {
        let numbers = self.journal.snapshot();
        numbers.denials.iter().find(|(known, _)| *known == rule).expect("a rule").1
    }

    pub async fn denied(&self, rule: &str) {
        eventually(rule, || self.denials(rule), |n| *n > 0).await;
    }
}

/// Namespaces, addresses and the redirection; answers the guest's.
fn wire() -> OwnedFd {
    run("ip link set lo up");
    let guest = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("tests run as root");
        run("ip link set lo up");
        OwnedFd::from(File::open("/proc/thread-self/ns/net").expect("own namespace"))
    })
    .join()
    .expect("namespace");
    let path = format!("/proc/{}/fd/{}", std::process::id(), guest.as_raw_fd());
    run(&format!("ip link add tap0 type veth peer name eth0 netns {path}"));
    run(&format!("ip addr add {GATEWAY}/24 dev tap0"));
    run("ip link set tap0 up");
    for address in [GOOD, OTHER] {
        run(&format!("ip addr add {address}/32 dev lo"));
    }
    // Nobody else there, and no way out: an attempt is refused at once.
    run("ip route add unreachable default");
    nft(&format!(
        "table ip slot {{ chain pre {{ type nat hook prerouting priority dstnat; \
           iifname tap0 ip daddr != {GATEWAY} meta l4proto tcp redirect to :{PORT}; }}; }}"
    ));
    inside(&guest, || {
        run("ip addr add 10.254.254.2/24 dev eth0");
        run("ip link set eth0 up");
        run(&format!("ip route add default via {GATEWAY}"));
    });
    guest
}

fn inside(netns: &OwnedFd, work: impl FnOnce() + Send + 'static) {
    let netns = netns.try_clone().expect("descriptor");
    let thread = std::thread::spawn(move || {
        setns(&netns, CloneFlags::CLONE_NEWNET).expect("enter namespace");
        work();
    });
    thread.join().expect("inside");
}

fn run(line: &str) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().expect("a program")).args(words).output().expect("it runs");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn nft(rules: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft runs");
    nft.stdin.take().expect("stdin").write_all(rules.as_bytes()).expect("rules");
    assert!(nft.wait().expect("nft ends").success());
}

/// What servers have received, all connections together.
pub type Seen = Arc<Mutex<Vec<u8>>>;

pub fn text(seen: &Seen) -> String {
    String::from_utf8_lossy(&seen.lock().expect("lock")).into_owned()
}

/// A server of the fake internet that greets, notes what it hears, and answers each piece by `reply`.
pub async fn server(
    address: Ipv4Addr,
    port: u16,
    greeting: &'static [u8],
    reply: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static,
) -> Seen {
    let listener = TcpListener::bind((address, port)).await.expect("a server's port");
    let seen = Seen::default();
    let (reply, noted) = (Arc::new(reply), Arc::clone(&seen));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (reply, noted) = (Arc::clone(&reply), Arc::clone(&noted));
            tokio::spawn(async move {
                stream.write_all(greeting).await?;
                let mut piece = vec![0; 64 * 1024];
                loop {
                    let n = stream.read(&mut piece).await?;
                    if n == 0 {
                        return stream.shutdown().await;
                    }
                    noted.lock().expect("lock").extend_from_slice(&piece[..n]);
                    stream.write_all(&reply(&piece[..n])).await?;
                }
            });
        }
    });
    seen
}

/// A server that says every piece again.
pub async fn echo(address: Ipv4Addr, port: u16) -> Seen {
    server(address, port, b"", <[u8]>::to_vec).await
}

/// An HTTP server that answers `200` to every piece that holds a request line.
pub async fn web(address: Ipv4Addr, port: u16) -> Seen {
    server(address, port, b"", |piece| {
        let requests = piece.windows(11).filter(|line| line == b" HTTP/1.1\r\n").count();
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".repeat(requests)
    })
    .await
}

/// Reads until `end` was read, the stream has ended, or it was reset.
pub async fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    let read = async {
        while !all.windows(end.len().max(1)).any(|part| part == end) {
            match stream.read_buf(&mut all).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    };
    if tokio::time::timeout(PATIENCE, read).await.is_err() {
        panic!("nothing more came after {:?}", String::from_utf8_lossy(&all));
    }
    all
}

/// Everything until the end or a reset.
pub async fn read_all(stream: &mut TcpStream) -> String {
    String::from_utf8_lossy(&read_until(stream, b"\0no such bytes\0").await).into_owned()
}

/// Waits for a condition; panics with its last state.
pub async fn eventually<T: std::fmt::Debug>(what: &str, mut state: impl FnMut() -> T, good: impl Fn(&T) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = state();
        if good(&now) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: still {now:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A ClientHello of our own making, as one record.
pub fn hello(name: Option<&str>, more: &[(u16, &[u8])]) -> Vec<u8> {
    let vector = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let mut extensions = Vec::new();
    if let Some(name) = name {
        let entry = [&[0], vector(name.as_bytes()).as_slice()].concat();
        extensions.extend([&[0, 0], vector(&vector(&entry)).as_slice()].concat());
    }
    for (kind, body) in more {
        extensions.extend([&kind.to_be_bytes(), vector(body).as_slice()].concat());
    }
    let body = [&[3, 3], [7; 32].as_slice(), &[0, 0, 2, 0x13, 1, 1, 0], &vector(&extensions)].concat();
    let message = [&[1, 0], vector(&body).as_slice()].concat();
    [&[0x16, 3, 1], vector(&message).as_slice()].concat()
}

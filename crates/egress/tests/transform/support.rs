//! A network of the test's own: a namespace in which the addresses of the servers are local ones, a rule that redirects
//! to the proxy like a slot's, and a guest that trusts its sandbox's authority alone.

#![allow(dead_code)]

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use leapbox_egress::{Authority, EgressContext, Journal, NameServer, PROXY_MARK, Proxy, serve};
use leapbox_egress_policy::{DomainName, Evaluator, Policy};
use nix::sched::{CloneFlags, unshare};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::collections::HashMap;
use std::future::Future;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The value that the transform injects.
pub const SECRET: &str = "Bearer the-injected-secret";
/// The transform's domain.
pub const API: &str = "api.example.com";
const PROXY_PORT: u16 = 15001;

pub type Tls = TlsStream<TcpStream>;
pub type Upload = BoxBody<Bytes, io::Error>;

/// Runs a test in a network of its own.
pub fn in_world<F, Fut>(test: F)
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    in_world_on(|| Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime"), test);
}

/// The same, on a runtime of the test's own making.
pub fn in_world_on<F, Fut>(runtime: fn() -> Runtime, test: F)
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("tests run as root");
        run("ip", &["link", "set", "lo", "up"], "");
        for host in 34..=39 {
            run("ip", &["addr", "add", &format!("93.184.216.{host}/32"), "dev", "lo"], "");
        }
        let rules = format!(
            "table ip guest {{ chain out {{ type nat hook output priority -100;\n\
             ip daddr 93.184.216.0/24 meta mark != {PROXY_MARK} tcp dport != 0 redirect to :{PROXY_PORT}\n }}\n}}\n"
        );
        run("nft", &["-f", "-"], &rules);
        runtime().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a program in the calling thread's namespace.
pub fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("program starts");
    child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("program ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A certificate and its key.
pub struct Issued {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// The internet's certificate authority, which the proxy trusts and the guest does not.
pub struct PublicCa {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

impl PublicCa {
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "The internet's CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let der = params.self_signed(&key).expect("a certificate").into();
        Self { issuer: Issuer::new(params, key), der }
    }

    pub fn issue(&self, name: &str) -> Issued {
        self.sign(&CertificateParams::new([name.to_owned()]).expect("parameters"))
    }

    /// One of nobody's.
    pub fn self_signed(name: &str) -> Issued {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
        Issued { chain: vec![made.cert.into()], key }
    }

    pub fn issue_expired(&self, name: &str) -> Issued {
        let mut params = CertificateParams::new([name.to_owned()]).expect("parameters");
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued { chain: vec![certificate.into()], key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
    }
}

struct Table(HashMap<String, Vec<Ipv4Addr>>);

#[async_trait::async_trait]
impl NameServer for Table {
    async fn resolve(&self, name: &DomainName) -> Vec<Ipv4Addr> {
        self.0.get(name.as_str()).cloned().unwrap_or_default()
    }

    fn answered(&self, _: Ipv4Addr) -> Option<DomainName> {
        None
    }
}

/// A sandbox behind the proxy.
pub struct Sandbox {
    pub authority: Arc<Authority>,
    pub journal: Arc<Journal>,
    pub context: Arc<EgressContext>,
    serving: JoinHandle<()>,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Sandbox {
    /// Its policy: one transform for all of these names, which injects and strips.
    pub async fn start(ca: &PublicCa, names: &[(&str, Ipv4Addr)]) -> Self {
        let transform = |(name, _): &(&str, Ipv4Addr)| {
            serde_json::json!({
                "domain": name,
                "inject_headers": {"Authorization": SECRET, "X-Team": "blue"},
                "strip_headers": ["X-Debug"],
            })
        };
        let transforms: Vec<_> = names.iter().map(transform).collect();
        let document = serde_json::json!({"mode": "custom", "transforms": transforms});
        let policy = Policy::parse(&document, &[]).expect("a policy");
        let table = names.iter().map(|(name, address)| ((*name).to_owned(), vec![*address])).collect();
        let authority = Arc::new(Authority::generate().expect("an authority"));
        let journal = Arc::new(Journal::new("test".into()));
        let context = EgressContext::new(
            Arc::new(Evaluator::new(Arc::new(policy), Vec::new())),
            Arc::new(Table(table)),
            Arc::clone(&journal),
            Some(Arc::clone(&authority)),
        );
        let mut roots = RootCertStore::empty();
        roots.add(ca.der.clone()).expect("a trust anchor");
        let listener = TcpListener::bind(("0.0.0.0", PROXY_PORT)).await.expect("a port");
        let serving = tokio::spawn(serve(Proxy::trusting(roots).expect("a proxy"), Arc::clone(&context), listener));
        Self { authority, journal, context, serving }
    }

    /// Refusals by one rule so far.
    pub fn denials(&self, rule: &str) -> u64 {
        let numbers = self.journal.snapshot().denials;
        numbers.iter().find(|(name, _)| *name == rule).expect("a rule").1
    }

    /// A guest's TLS connection; it trusts this sandbox's authority.
    pub async fn tls(&self, name: &str, address: Ipv4Addr, alpn: &[&str]) -> io::Result<Tls> {
        tls_trusting(&self.authority, name, address, alpn).await
    }

    pub async fn http1(&self, name: &str, address: Ipv4Addr) -> http1::SendRequest<Upload> {
        let stream = self.tls(name, address, &["http/1.1"]).await.expect("TLS");
        let (sender, connection) = http1::Builder::new().handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
        tokio::spawn(connection.with_upgrades());
        sender
    }

    pub async fn http2(&self, name: &str, address: Ipv4Addr) -> http2::SendRequest<Upload> {
        let stream = self.tls(name, address, &["h2", "http/1.1"]).await.expect("TLS");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) =
            http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.expect("HTTP/2");
        tokio::spawn(connection);
        sender
    }
}

pub async fn tls_trusting(trusted: &Authority, name: &str, address: Ipv4Addr, alpn: &[&str]) -> io::Result<Tls> {
    let mut roots = RootCertStore::empty();
    let der = CertificateDer::from_pem_slice(trusted.certificate_pem().as_bytes()).expect("a certificate");
    roots.add(der).expect("a trust anchor");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let socket = TcpStream::connect((address, 443)).await?;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, socket).await
}

pub fn empty() -> Upload {
    Empty::new().map_err(|never| match never {}).boxed()
}

pub fn full(bytes: impl Into<Bytes>) -> Upload {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

//! A gateway with keys, sandboxes and applications, and clients for it.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use leapbox_api_types::ApiError;
use leapbox_auth::{Auth, RateLimit};
use leapbox_db::{Db, OrganisationRow};
use leapbox_gateway::tls::Tls;
use leapbox_gateway::{Backend, Backends, Config, Gateway, Limits, OpenError};
use leapbox_ids::{OrganisationId, SandboxId};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub type Body = BoxBody<Bytes, Infallible>;
pub type Tcp = TlsStream<TcpStream>;

pub const DOMAIN: &str = "sandbox.localhost";

/// Nothing here may take longer; a hang is a failure.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Sandboxes that are ports on loopback.
pub struct Sandboxes {
    auth: Auth,
    known: Arc<Mutex<HashMap<SandboxId, Known>>>,
}

#[derive(Clone)]
struct Known {
    organisation: OrganisationId,
    port: Option<u16>,
    applications: HashMap<u16, SocketAddr>,
    slow: Duration,
}

pub struct Application {
    port: u16,
    address: SocketAddr,
}

impl Backends for Sandboxes {
    type Backend = Application;

    async fn authenticate(&self, headers: &HeaderMap) -> Result<OrganisationId, ApiError> {
        Ok(self.auth.authenticate(headers).await?.organisation)
    }

    async fn find(
        &self,
        organisation: &OrganisationId,
        id: &SandboxId,
        port: Option<u16>,
    ) -> Result<Application, ApiError> {
        let known = self.known.lock().expect("not poisoned").get(id).cloned();
        let known = known
            .filter(|known| known.organisation == *organisation)
            .ok_or_else(|| ApiError::NotFound("sandbox not found".to_owned()))?;
        tokio::time::sleep(known.slow).await;
        let port = port.or(known.port).ok_or_else(|| ApiError::NotFound("no port".to_owned()))?;
        // Port 1 of loopback is where nothing listens.
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        Ok(Application { port, address: known.applications.get(&port).copied().unwrap_or(nowhere) })
    }
}

impl Backend for Application {
    fn port(&self) -> u16 {
        self.port
    }

    async fn open(&self) -> Result<TcpStream, OpenError> {
        TcpStream::connect(self.address).await.map_err(|source| match source.kind() {
            ErrorKind::ConnectionRefused => OpenError::NothingListens,
            _ => OpenError::Unreachable { source: Box::new(source) },
        })
    }

    async fn left(&self) {
        std::future::pending().await
    }
}

/// A gateway that serves, with one sandbox.
pub struct Site {
    pub gateway: Gateway<Sandboxes>,
    pub address: SocketAddr,
    /// A key of the sandbox's organisation, and one of another.
    pub key: String,
    pub foreign_key: String,
    pub sandbox: SandboxId,
    known: Arc<Mutex<HashMap<SandboxId, Known>>>,
    client: ClientConfig,
    stop: Option<oneshot::Sender<()>>,
    pub served: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Site {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Limits)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let db = Db::open(&folder.path().join("keys.db")).await.expect("a database");
        let organisations = [organisation(&db, "ours").await, organisation(&db, "theirs").await];
        let auth = Auth::new(db, RateLimit::default());
        let (_, key) = auth.create_key(&organisations[0], "test").await.expect("a key");
        let (_, foreign_key) = auth.create_key(&organisations[1], "test").await.expect("a key");

        let made = rcgen::generate_simple_self_signed([format!("*.{DOMAIN}"), DOMAIN.to_owned()]).expect("made");
        let (certificate, private) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).expect("written");
        std::fs::write(&private, made.signing_key.serialize_pem()).expect("written");
        let tls = Tls::from_files(&certificate, &private).expect("TLS");

        let known = Arc::new(Mutex::new(HashMap::new()));
        let sandbox = SandboxId::generate();
        let [organisation, _] = organisations;
        let applications = HashMap::new();
        known
            .lock()
            .expect("not poisoned")
            .insert(sandbox.clone(), Known { organisation, port: None, applications, slow: Duration::ZERO });
        let mut config = Config::new(DOMAIN);
        change(&mut config.limits);
        let gateway = Gateway::new(Sandboxes { auth, known: Arc::clone(&known) }, control(), config);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = gateway.clone();
        let served = tokio::spawn(async move {
            serving.serve(vec![listener], tls, async { drop(stopped.await) }).await.expect("served");
        });
        let client = client_config(&CertificateDer::from_pem_file(&certificate).expect("a certificate"));
        let (stop, _folder) = (Some(stop), folder);
        Self { gateway, address, key, foreign_key, sandbox, known, client, stop, served, _folder }
    }

    /// Changes what is known of the sandbox.
    fn change(&self, change: impl FnOnce(&mut Known)) {
        change(self.known.lock().expect("not poisoned").get_mut(&self.sandbox).expect("known"));
    }

    pub fn slow(&self, slow: Duration) {
        self.change(|known| known.slow = slow);
    }

    pub fn image_port(&self, port: u16) {
        self.change(|known| known.port = Some(port));
    }

    pub fn listens(&self, port: u16, address: SocketAddr) {
        self.change(|known| {
            known.applications.insert(port, address);
        });
    }

    /// The host name of a port in the sandbox.
    pub fn host(&self, port: u16) -> String {
        format!("{}-{port}.{DOMAIN}", self.sandbox)
    }

    /// A port of the sandbox with this application; returns its host name.
    pub fn app(&self, address: SocketAddr) -> String {
        self.listens(8080, address);
        self.host(8080)
    }

    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    pub async fn tls(&self, protocols: &[&str]) -> Tcp {
        let mut config = self.client.clone();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let socket = TcpStream::connect(self.address).await.expect("connected");
        socket.set_nodelay(true).expect("set");
        let name = ServerName::try_from(DOMAIN).expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, socket).await.expect("a TLS session")
    }

    pub async fn h1(&self) -> http1::SendRequest<Body> {
        let stream = self.tls(&["http/1.1"]).await;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
        tokio::spawn(connection.with_upgrades());
        sender
    }

    pub async fn h2(&self) -> http2::SendRequest<Body> {
        let stream = self.tls(&["h2"]).await;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        tokio::spawn(connection);
        sender
    }

    /// A request with the key, for HTTP/1.1.
    pub fn request(&self, method: &str, host: &str, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(path).header("host", host).header("authorization", &self.key)
    }

    /// The same for HTTP/2, where the host stands in the URI.
    pub fn request2(&self, method: &str, host: &str, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("https://{host}{path}")).header("authorization", &self.key)
    }

    pub async fn get(&self, host: &str, path: &str) -> Response<Incoming> {
        let request = self.request("GET", host, path).body(none()).expect("a request");
        self.h1().await.send_request(request).await.expect("an answer")
    }

    /// Sends bytes over one TLS connection and reads to its end.
    pub async fn raw(&self, request: &str) -> String {
        let mut stream = self.tls(&["http/1.1"]).await;
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = Vec::new();
        // A connection cut after the answer may end without close_notify.
        let _ended = soon(stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

async fn organisation(db: &Db, name: &str) -> OrganisationId {
    let row = OrganisationRow { id: OrganisationId::generate(), name: name.to_owned(), created_at_ms: 0 };
    db.organisation_insert(&row).await.expect("inserted");
    row.id
}

fn client_config(certificate: &CertificateDer<'static>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a root");
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A control plane that says it is one, and whom it sees.
fn control() -> axum::Router {
    use axum::extract::ConnectInfo;
    axum::Router::new().route(
        "/v1/ping",
        axum::routing::get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move {
            format!("control plane for {}", peer.ip())
        }),
    )
}

pub fn none() -> Body {
    Empty::new().boxed()
}

pub fn text(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

pub async fn read(response: Response<Incoming>) -> String {
    let bytes = soon(response.into_body().collect()).await.expect("a whole body").to_bytes();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The future's result, or a failed test.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An application made of one function.
pub async fn app<F, R>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    raw_app(move |socket| {
        let answer = answer.clone();
        async move {
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .with_upgrades();
            let _ended = connection.await;
        }
    })
    .await
}

/// An application that does with its connections what it likes.
pub async fn raw_app<F, R>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            socket.set_nodelay(true).expect("set");
            tokio::spawn(serve(socket));
        }
    });
    address
}

/// Heads of requests, as an application received them.
pub type Seen = Arc<Mutex<Vec<String>>>;

/// An application that writes down every head and gives always the same answer, then closes.
pub async fn scripted(answer: &'static str) -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let heads = Arc::clone(&seen);
    let address = raw_app(move |mut socket| {
        let heads = Arc::clone(&heads);
        async move {
            let head = read_head(&mut socket).await;
            heads.lock().expect("not poisoned").push(head);
            let _written = socket.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    (address, seen)
}

/// Reads a head, to its empty line.
pub async fn read_head(socket: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

pub fn heads(seen: &Seen) -> Vec<String> {
    seen.lock().expect("not poisoned").clone()
}

//! A real HTTPS server of the test's own, which remembers what it was asked.

#![allow(dead_code)]

use crate::support::Issued;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, Request, Response, StatusCode, Uri, Version};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

pub const BLOB: usize = 50 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);
type Download = BoxBody<Bytes, Infallible>;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub version: Version,
    pub uri: Uri,
    pub headers: HeaderMap,
    /// Set once the body was read.
    pub trailers: Option<HeaderMap>,
}

impl Seen {
    /// A header's only value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next().map(|value| value.to_str().expect("text"));
        assert!(values.next().is_none(), "{name} more than once: {:?}", self.headers);
        value
    }
}

/// How a connection came to its end.
#[derive(PartialEq, Eq)]
enum Ended {
    /// Also: it went on as a WebSocket.
    OfItself,
    ByUs,
}

#[derive(Clone, Default)]
pub struct Server {
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    /// Those that are open.
    open: Arc<AtomicUsize>,
    /// Lets `/events` go on.
    pub go_on: Arc<Notify>,
    hang_up: Arc<Notify>,
}

impl Server {
    /// Serves on port 443 of an address.
    pub async fn start(address: Ipv4Addr, issued: Issued, alpn: &[&str]) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(issued.chain, issued.key)
            .expect("a certificate");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let listener = TcpListener::bind((address, 443)).await.expect("a port");
        let server = Self::default();
        let (acceptor, serving) = (TlsAcceptor::from(Arc::new(config)), server.clone());
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                tokio::spawn(serving.clone().connection(acceptor.clone(), socket));
            }
        });
        server
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("lock").clone()
    }

    pub fn last(&self) -> Seen {
        self.seen().pop().expect("a request")
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Waits until so many connections are open.
    pub async fn open(&self, expected: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.open.load(Ordering::Relaxed) != expected {
            assert!(Instant::now() < deadline, "{} open and not {expected}", self.open.load(Ordering::Relaxed));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends every connection without a word.
    pub fn hang_up(&self) {
        self.hang_up.notify_waiters();
    }

    /// The same, and waits until the other side has seen it.
    pub async fn hang_up_and_wait(&self) {
        self.hang_up();
        self.open(0).await;
    }

    async fn connection(self, acceptor: TlsAcceptor, socket: TcpStream) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        let socket = socket.into_std().expect("a socket");
        let mut twin = TcpStream::from_std(socket.try_clone().expect("a twin")).expect("a twin");
        let socket = TcpStream::from_std(socket).expect("a socket");
        if self.clone().serve(acceptor, socket).await == Ended::ByUs {
            let _ = twin.shutdown().await;
            while twin.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0) {}
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    async fn serve(self, acceptor: TlsAcceptor, socket: TcpStream) -> Ended {
        let hang_up = Arc::clone(&self.hang_up);
        let Ok(stream) = acceptor.accept(socket).await else { return Ended::OfItself };
        let service = service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let builder = auto::Builder::new(TokioExecutor::new());
        tokio::select! {
            _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service) => Ended::OfItself,
            () = hang_up.notified() => Ended::ByUs,
        }
    }

    async fn answer(self, mut request: Request<Incoming>) -> Response<Download> {
        let (version, uri) = (request.version(), request.uri().clone());
        let headers = request.headers().clone();
        let path = uri.path().to_owned();
        let at = {
            let mut seen = self.seen.lock().expect("lock");
            seen.push(Seen { version, uri, headers, trailers: None });
            seen.len() - 1
        };
        match path.as_str() {
            "/hash" => {
                let (hash, trailers) = digest(request.into_body()).await;
                self.seen.lock().expect("lock")[at].trailers = trailers;
                text(hash)
            }
            "/blob" => stream(blob(), None),
            "/echo" => Response::new(request.into_body().map_err(|error| panic!("{error}")).boxed()),
            "/events" => self.events(),
            "/trailers" => {
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", "42".parse().expect("a value"));
                let mut response = stream(vec![Bytes::from_static(b"body")], Some(trailers));
                response.headers_mut().insert("trailer", "x-sum".parse().expect("a value"));
                response
            }
            "/last" => with(text("last"), "connection", "close"),
            "/ws" => websocket(&mut request),
            "/empty" => status(StatusCode::NO_CONTENT),
            "/cached" => with(status(StatusCode::NOT_MODIFIED), "etag", "\"x\""),
            _ => with(text("hello"), "x-from", "upstream"),
        }
    }

    /// Server-sent events, the second one when it is asked for.
    fn events(&self) -> Response<Download> {
        let (events, mut received) = mpsc::channel(1);
        let go_on = Arc::clone(&self.go_on);
        tokio::spawn(async move {
            events.send(Bytes::from_static(b"data: one\n\n")).await.expect("taken");
            go_on.notified().await;
            events.send(Bytes::from_static(b"data: two\n\n")).await.expect("taken");
        });
        let frames = futures::stream::poll_fn(move |cx| received.poll_recv(cx)).map(|event| Ok(Frame::data(event)));
        with(Response::new(BodyExt::boxed(StreamBody::new(frames))), "content-type", "text/event-stream")
    }
}

/// The pieces of the large answer.
pub fn blob() -> Vec<Bytes> {
    let piece = |n: usize| (0..1024 * 1024).map(|at: usize| (at * 31 + n * 7 + at / 251) as u8).collect();
    (0..BLOB / (1024 * 1024)).map(piece).collect()
}

pub fn hash(pieces: &[Bytes]) -> String {
    let mut hash = Sha256::new();
    pieces.iter().for_each(|piece| hash.update(piece));
    format!("{:x}", hash.finalize())
}

/// Reads a body to its end: the hash of its data, and its trailers.
pub async fn digest(mut body: Incoming) -> (String, Option<HeaderMap>) {
    let (mut hash, mut trailers) = (Sha256::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.expect("a whole body").into_data() {
            Ok(data) => hash.update(data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    (format!("{:x}", hash.finalize()), trailers)
}

fn stream(pieces: Vec<Bytes>, trailers: Option<HeaderMap>) -> Response<Download> {
    let frames = pieces.into_iter().map(Frame::data).chain(trailers.map(Frame::trailers)).map(Ok);
    Response::new(BodyExt::boxed(StreamBody::new(futures::stream::iter(frames))))
}

fn text(text: impl Into<Bytes>) -> Response<Download> {
    Response::new(http_body_util::Full::new(text.into()).boxed())
}

fn status(status: StatusCode) -> Response<Download> {
    let mut response = Response::new(http_body_util::Empty::new().boxed());
    *response.status_mut() = status;
    response
}

fn with(mut response: Response<Download>, name: &'static str, value: &'static str) -> Response<Download> {
    response.headers_mut().insert(name, value.parse().expect("a value"));
    response
}

fn websocket(request: &mut Request<Incoming>) -> Response<Download> {
    let key = request.headers().get("sec-websocket-key").expect("a handshake").clone();
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let upgraded = TokioIo::new(upgrade.await.expect("upgraded"));
        let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.expect("echoed");
            }
        }
    });
    let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
    let accept = derive_accept_key(key.as_bytes()).parse().expect("a value");
    response.headers_mut().insert("sec-websocket-accept", accept);
    with(with(response, "connection", "Upgrade"), "upgrade", "websocket")
}

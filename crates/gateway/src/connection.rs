//! One client connection: TLS handshake, HTTP/1.1 or HTTP/2 by ALPN, and a watchdog over it.
//!
//! The watchdog is the one clock for everything that can stand still: a silent upload, an answer the client does not
//! read, an application that says nothing more, an HTTP/2 connection kept open for nothing. It looks at what moved and
//! at how many requests are open, and needs no timer per request.

use crate::backends::Backends;
use crate::body::GatewayBody;
use crate::server::Shared;
use crate::stats::{Counters, count};
use http::header::HeaderValue;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Bytes TLS takes from HTTP before they must go to the socket.
const TLS_BUFFER: usize = 256 * 1024;
/// Bytes HTTP/2 may have under way to us, per stream and per connection.
const H2_STREAM_WINDOW: u32 = 1024 * 1024;
const H2_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
const H2_PING_EVERY: Duration = Duration::from_secs(30);
const H2_PING_DEADLINE: Duration = Duration::from_secs(20);

/// How far shutdown has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Serving.
    Open,
    /// Finishing what is open, taking nothing new.
    Draining,
    /// Ending everything.
    Cut,
}

/// One client connection, as its requests and tunnels see it.
pub(crate) struct Client {
    peer: SocketAddr,
    /// Its address, for `X-Forwarded-For`.
    forwarded_for: HeaderValue,
    /// Taken only to be told that there is no room.
    refused: bool,
    /// Counts movements.
    moved: AtomicU64,
    /// Requests and tunnels open.
    open: AtomicUsize,
    phase: watch::Receiver<Phase>,
    counters: Arc<Counters>,
    _permit: OwnedSemaphorePermit,
}

/// An open request or tunnel; ends with the drop.
pub(crate) struct OpenRequest<'a>(&'a Client);

impl Client {
    pub(crate) fn new(
        peer: SocketAddr,
        refused: bool,
        phase: watch::Receiver<Phase>,
        counters: &Arc<Counters>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        count(&counters.connections_open);
        let address = peer.ip().to_canonical().to_string();
        let forwarded_for = HeaderValue::try_from(address).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        let (moved, open) = (AtomicU64::new(0), AtomicUsize::new(0));
        Self { peer, forwarded_for, refused, moved, open, phase, counters: Arc::clone(counters), _permit: permit }
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn forwarded_for(&self) -> &HeaderValue {
        &self.forwarded_for
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.refused
    }

    /// Something moved on one of its requests.
    pub(crate) fn moved(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn open_request(&self) -> OpenRequest<'_> {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.moved();
        OpenRequest(self)
    }

    /// Returns once shutdown has got so far.
    pub(crate) async fn phase(&self, phase: Phase) {
        let mut phases = self.phase.clone();
        // The sender's end means the gateway itself is gone.
        let _gone = phases.wait_for(|now| *now >= phase).await;
    }
}

impl Drop for OpenRequest<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.moved();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.counters.connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves a connection until it ends.
pub(crate) async fn serve<B: Backends>(shared: Arc<Shared<B>>, client: Client, socket: TcpStream, tls: TlsAcceptor) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "could not set TCP_NODELAY on a client's connection");
    }
    let handshake = tls.accept_with(socket, |session| session.set_buffer_limit(Some(TLS_BUFFER)));
    let stream = match timeout(shared.config.limits.tls_handshake, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            count(&shared.counters.handshakes_failed);
            return tracing::debug!(peer = %client.peer, %error, "TLS handshake failed");
        }
        Err(_) => {
            count(&shared.counters.handshakes_failed);
            return tracing::debug!(peer = %client.peer, "TLS handshake took too long");
        }
    };
    let session = stream.get_ref().1;
    let is_h2 = session.alpn_protocol() == Some(b"h2");
    tracing::debug!(peer = %client.peer, sni = session.server_name(), is_h2, "client connected");
    let client = Arc::new(client);
    if is_h2 { serve_h2(shared, client, stream).await } else { serve_h1(shared, client, stream).await }
}

async fn serve_h1<B: Backends>(shared: Arc<Shared<B>>, client: Arc<Client>, stream: TlsStream<TcpStream>) {
    let limits = &shared.config.limits;
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .max_header_size(limits.max_header_bytes)
        .keep_alive(!client.refused)
        .serve_connection(TokioIo::new(stream), service(&shared, &client))
        .with_upgrades();
    watch_over(&shared, &client, connection).await;
}

async fn serve_h2<B: Backends>(shared: Arc<Shared<B>>, client: Arc<Client>, stream: TlsStream<TcpStream>) {
    let limits = &shared.config.limits;
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(H2_PING_EVERY)
        .keep_alive_timeout(H2_PING_DEADLINE)
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(stream), service(&shared, &client));
    watch_over(&shared, &client, connection).await;
}

fn service<B: Backends>(
    shared: &Arc<Shared<B>>,
    client: &Arc<Client>,
) -> impl HttpService<Incoming, ResBody = GatewayBody, Error = Infallible, Future: Send> + use<B> {
    let (shared, client) = (Arc::clone(shared), Arc::clone(client));
    service_fn(move |request: Request<Incoming>| {
        let (shared, client) = (Arc::clone(&shared), Arc::clone(&client));
        async move { Ok::<Response<GatewayBody>, Infallible>(shared.answer(&client, request).await) }
    })
}

/// A connection that can be asked to end after what is open.
trait Graceful: Future<Output = hyper::Result<()>> {
    fn end_gracefully(self: Pin<&mut Self>);
}

impl<I, S> Graceful for http1::UpgradeableConnection<I, S>
where
    Self: Future<Output = hyper::Result<()>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: HttpService<Incoming, ResBody = GatewayBody, Error = Infallible>,
{
    fn end_gracefully(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S> Graceful for http2::Connection<I, S, TokioExecutor>
where
    Self: Future<Output = hyper::Result<()>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: HttpService<Incoming, ResBody = GatewayBody, Error = Infallible, Future: Send + 'static>,
{
    fn end_gracefully(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Runs a connection to its end, or ends it.
async fn watch_over<B: Backends>(shared: &Shared<B>, client: &Client, connection: impl Graceful) {
    let limits = &shared.config.limits;
    let mut connection = pin!(connection);
    let mut draining = pin!(client.phase(Phase::Draining));
    let mut cut = pin!(client.phase(Phase::Cut));
    let mut is_draining = false;
    let mut tick = interval(limits.keep_alive_idle.min(limits.stream_idle) / 4);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watchdog = Watchdog::new(client);
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(peer = %client.peer, %error, "a client's connection ended badly");
                }
                return;
            }
            () = draining.as_mut(), if !is_draining => {
                is_draining = true;
                connection.as_mut().end_gracefully();
            }
            () = cut.as_mut() => return,
            _ = tick.tick() => match watchdog.look(client, limits.keep_alive_idle, limits.stream_idle) {
                Verdict::Fine => {}
                Verdict::Unused => connection.as_mut().end_gracefully(),
                Verdict::Stalled => {
                    count(&shared.counters.connections_stalled);
                    return tracing::debug!(peer = %client.peer, "cut a connection on which nothing moved");
                }
            },
        }
    }
}

/// What a connection's standstill means.
enum Verdict {
    Fine,
    Unused,
    Stalled,
}

/// When something last moved.
struct Watchdog {
    seen: u64,
    since: Instant,
}

impl Watchdog {
    fn new(client: &Client) -> Self {
        Self { seen: client.moved.load(Ordering::Relaxed), since: Instant::now() }
    }

    fn look(&mut self, client: &Client, keep_alive_idle: Duration, stream_idle: Duration) -> Verdict {
        let moved = client.moved.load(Ordering::Relaxed);
        if moved != self.seen {
            (self.seen, self.since) = (moved, Instant::now());
            return Verdict::Fine;
        }
        let standstill = self.since.elapsed();
        match client.open.load(Ordering::Relaxed) {
            // Twice asked in vain to end by itself: the client does not read, or has unfinished bytes of ours.
            0 if standstill >= 2 * keep_alive_idle + stream_idle => Verdict::Stalled,
            0 if standstill >= keep_alive_idle => Verdict::Unused,
            0 => Verdict::Fine,
            _ if standstill >= stream_idle => Verdict::Stalled,
            _ => Verdict::Fine,
        }
    }
}

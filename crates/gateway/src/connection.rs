//! One client connection: TLS handshake, then HTTP/1.1 or HTTP/2 by ALPN, in one task of one worker.

use crate::backends::Backends;
use crate::body::GatewayBody;
use crate::server::Shared;
use crate::stats::{Counters, count};
use crate::worker::Worker;
use futures::task::AtomicWaker;
use http::header::HeaderValue;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use leapbox_errors::chain;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Bytes TLS takes from HTTP before they must go to the socket.
const TLS_BUFFER: usize = 256 * 1024;
/// Bytes HTTP/2 may have under way to us, per stream and per connection.
const H2_STREAM_WINDOW: u32 = 1024 * 1024;
const H2_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
const H2_PING_EVERY: Duration = Duration::from_secs(30);
const H2_PING_DEADLINE: Duration = Duration::from_secs(20);

/// What a connection is told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Order {
    /// Serve.
    Serve,
    /// End after what is open.
    Finish,
    /// End now.
    Stop,
}

/// One client connection, as its requests and tunnels see it.
pub(crate) struct Client {
    peer: SocketAddr,
    /// Its address, for `X-Forwarded-For`.
    forwarded_for: HeaderValue,
    /// Taken only to be told that there is no room.
    refused: bool,
    /// The thread it lives in.
    worker: Arc<Worker>,
    /// Counts movements.
    moved: AtomicU64,
    /// Requests and tunnels open.
    open: AtomicUsize,
    /// An [`Order`].
    order: AtomicU8,
    /// The connection's task.
    waker: AtomicWaker,
    _permit: OwnedSemaphorePermit,
}

/// An open request or tunnel; ends with the drop.
pub(crate) struct OpenRequest<'a>(&'a Client);

impl Client {
    pub(crate) fn new(peer: SocketAddr, refused: bool, worker: &Arc<Worker>, permit: OwnedSemaphorePermit) -> Self {
        worker.load.fetch_add(1, Ordering::Relaxed);
        count(&worker.counters.connections_open);
        let address = peer.ip().to_canonical().to_string();
        Self {
            peer,
            forwarded_for: HeaderValue::try_from(address).unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            refused,
            worker: Arc::clone(worker),
            moved: AtomicU64::new(1),
            open: AtomicUsize::new(0),
            order: AtomicU8::new(Order::Serve as u8),
            waker: AtomicWaker::new(),
            _permit: permit,
        }
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

    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.worker.counters
    }

    /// Something moved on one of its requests.
    pub(crate) fn moved(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn movements(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Requests and tunnels open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn open_request(&self) -> OpenRequest<'_> {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.moved();
        OpenRequest(self)
    }

    /// Tells the connection; an order is never taken back.
    pub(crate) fn order(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    fn has(&self, order: Order) -> bool {
        self.order.load(Ordering::Acquire) >= order as u8
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
        self.worker.load.fetch_sub(1, Ordering::Relaxed);
        self.worker.counters.connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves a connection until it ends.
pub(crate) async fn serve<B: Backends>(
    shared: Arc<Shared<B>>,
    client: Arc<Client>,
    socket: TcpStream,
    tls: TlsAcceptor,
) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(error = %chain(&error), "could not set TCP_NODELAY on a client's connection");
    }
    let handshake = tls.accept_with(socket, |session| session.set_buffer_limit(Some(TLS_BUFFER)));
    let stream = match timeout(shared.config.limits.tls_handshake, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            count(&client.counters().handshakes_failed);
            return tracing::debug!(peer = %client.peer, error = %chain(&error), "TLS handshake failed");
        }
        Err(_) => {
            count(&client.counters().handshakes_failed);
            return tracing::debug!(peer = %client.peer, "TLS handshake took too long");
        }
    };
    let session = stream.get_ref().1;
    let is_h2 = session.alpn_protocol() == Some(b"h2");
    tracing::debug!(peer = %client.peer, sni = session.server_name(), is_h2, "client connected");
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
    run(&client, connection).await;
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
    run(&client, connection).await;
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

/// Runs a connection to its end, or as far as it is ordered.
async fn run(client: &Client, connection: impl Graceful) {
    let mut connection = pin!(connection);
    let mut is_finishing = false;
    let ended = poll_fn(|cx| {
        // Before the look at the order, so that one given in between is not slept through.
        client.waker.register(cx.waker());
        if client.has(Order::Stop) {
            return Poll::Ready(Ok(()));
        }
        if client.has(Order::Finish) && !is_finishing {
            is_finishing = true;
            connection.as_mut().end_gracefully();
        }
        connection.as_mut().poll(cx)
    });
    if let Err(error) = ended.await {
        tracing::debug!(peer = %client.peer, error = %chain(&error), "a client's connection ended badly");
    }
}

//! Transforms: HTTPS to a domain whose requests get headers injected or stripped.
//!
//! ```text
//!   guest ══TLS, leaf of the sandbox's CA══► terminate ─► session ─► upstream ══TLS, verified══► server
//!                                                           │ each request: target (whose is it?)
//!                                                           └               rules  (headers)
//! ```
//!
//! The upstream is connected first: its choice out of the guest's ALPN list is what the guest is offered, so that both
//! sides speak one version of HTTP. If it can't be reached or verified, the guest's handshake is completed all the same and
//! its requests are answered 502 with the reason: a TLS client has no other way to read one.
//!
//! Called by `connection`, once the SNI is known and its rule is a transform. All that a guest connection needs runs in
//! its own task (`tasks`) and ends with it.
//!
//! Invariant: a secret goes to a server whose certificate for the transform's name was verified in this connection, in a
//! request for that name, and nowhere else: no log, no error, no answer holds one.

mod body;
mod connect;
mod prefixed;
mod refusal;
mod rules;
mod session;
mod target;
mod tasks;
mod terminate;
mod upstream;
mod websocket;

use crate::gate::Gate;
use crate::guest::GuestStream;
use crate::proxy::Proxy;
use connect::Connector;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use leapbox_egress_policy::stream::client_hello::ClientHello;
use leapbox_egress_policy::{Denial, DomainName, Transform};
use leapbox_errors::chain;
use prefixed::Prefixed;
use rules::Rules;
use session::Session;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use target::Target;
use tasks::{Spawner, Tasks};
use tokio_rustls::server::TlsStream;
use upstream::Upstream;

/// For a request's head, and for the next request on a kept connection.
const HEADER_READ: Duration = Duration::from_secs(300);
const MAX_HEADER_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 256;
/// Bytes of one HTTP/1.1 connection that wait to be taken, each way.
const BUFFER: usize = 128 * 1024;
const MAX_STREAMS: u32 = 128;
/// Bytes HTTP/2 may have under way to us, per stream and per connection.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Bytes of one stream that wait for the guest to take them.
const SEND_BUFFER: usize = 64 * 1024;
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_DEADLINE: Duration = Duration::from_secs(20);

/// A guest's TLS connection to a domain with a transform.
pub(crate) struct Connection {
    pub(crate) guest: GuestStream,
    /// What was read of it, from its first byte.
    pub(crate) already_read: Vec<u8>,
    pub(crate) hello: ClientHello,
    /// The SNI.
    pub(crate) name: DomainName,
    pub(crate) transform: Transform,
    /// What the name resolves to.
    pub(crate) addresses: Vec<Ipv4Addr>,
    /// What the guest dialled: its port counts, its address only among the others.
    pub(crate) destination: SocketAddrV4,
}

/// Serves it to its end. An error is why it was not served at all; what becomes of its requests is noted here.
pub(crate) async fn serve(proxy: &Arc<Proxy>, gate: &Arc<Gate>, connection: Connection) -> Result<(), Denial> {
    let Connection { guest, already_read, hello, name, transform, addresses, destination } = connection;
    let unusable = |what: &'static str| Denial::Upstream { name: name.clone(), what: what.into() };
    let authority = gate.authority.as_ref().ok_or_else(|| unusable("this sandbox has no CA for its transform"))?;
    let rules = Rules::new(&transform).map(Arc::new).ok_or_else(|| unusable("its transform's headers are none"))?;
    let target =
        Target::new(name.clone(), destination).map(Arc::new).ok_or_else(|| unusable("its name is no host's"))?;
    let offered = terminate::offered(&hello)?;

    let (spawner, mut tasks) = Tasks::new();
    let connector = Connector {
        proxy: Arc::clone(proxy),
        gate: Arc::clone(gate),
        target: Arc::clone(&target),
        spawner: spawner.clone(),
    };
    let upstream = Upstream::new(connector);
    let agreed = tasks.run(upstream.connect(&addresses, offered.clone())).await;
    let alpn = agreed.map_or(offered, |protocol| protocol.alpn());
    let guest = Prefixed::new(already_read, guest, &gate.journal);
    let provider = proxy.upstream.crypto_provider();
    let stream = tasks.run(terminate::terminate(provider, authority, &name, alpn, guest)).await?;

    let (gate, switched) = (Arc::clone(gate), Default::default());
    let is_ending = Default::default();
    let session = Arc::new(Session { gate, target, rules, upstream, is_ending, switched });
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        tasks.run(serve_http2(session, stream, spawner)).await;
    } else {
        tasks.run(serve_http1(Arc::clone(&session), stream)).await;
        if let Some(switched) = session.take_switched() {
            tasks.run(websocket::tunnel(switched)).await;
        }
    }
    Ok(())
}

async fn serve_http1(session: Arc<Session>, stream: TlsStream<Prefixed>) {
    let service = service_fn(move |request| {
        let answer = Arc::clone(&session).answer(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ)
        .max_header_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .max_buf_size(BUFFER)
        .preserve_header_case(true)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    note(served);
}

async fn serve_http2(session: Arc<Session>, stream: TlsStream<Prefixed>, spawner: Spawner) {
    let answering = Arc::clone(&session);
    let service = service_fn(move |request| {
        let answer = Arc::clone(&answering).answer(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let mut connection = pin!(
        http2::Builder::new(spawner)
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_DEADLINE)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADER_BYTES as u32)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut is_told = false;
    let served = poll_fn(|cx| {
        if !is_told && session.is_ending.load(Ordering::Relaxed) {
            is_told = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    });
    note(served.await);
}

fn note(served: hyper::Result<()>) {
    if let Err(error) = served {
        tracing::debug!(error = %chain(&error), "a guest's connection ended badly");
    }
}

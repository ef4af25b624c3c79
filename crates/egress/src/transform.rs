//! Transforms: terminates HTTPS to a domain and injects headers into its requests, or strips them.
//!
//! ```text
//!   guest ══TLS, leaf of the sandbox's CA══► terminate ─► session ─► upstream ══TLS, verified══► server
//!                                                           │ each request: target (is it for this name?)
//!                                                           └               rules  (headers)
//! ```
//!
//! The upstream is connected first. The guest is offered the protocol that the upstream has chosen out of the guest's
//! own ALPN list, so that both sides speak one version of HTTP. If the upstream cannot be reached or verified, the
//! guest's handshake is completed all the same and its requests are answered 502 with the reason: a TLS client has no
//! other way to read one.
//!
//! `connection` calls it once the SNI is known and the policy has a transform for it. All that a guest's connection
//! needs runs in its own task (`tasks`) and ends with it.
//!
//! Invariant: a secret is sent only to a server whose certificate for the transform's name was verified on that
//! connection, and only in a request for that name. No log, error or answer holds one.

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

use crate::context::EgressContext;
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

// For a request's head and for the pause before it: an idle kept connection is closed after five minutes.
const HEADER_TIMEOUT: Duration = Duration::from_secs(300);
// More than common servers accept (8 to 32 KiB). Without bounds, a guest could make the proxy hold headers without end.
const MAX_HEADER_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 256;
// What one connection can make the proxy hold is bounded: per direction of an HTTP/1.1 connection, and per stream and
// connection of HTTP/2, where each stream takes one of the sandbox's permits as well.
/// Bytes of one HTTP/1.1 connection that wait to be taken, each way.
const BUFFER: usize = 128 * 1024;
const MAX_STREAMS: u32 = 128;
/// Bytes that HTTP/2 may have under way to the proxy, per stream and per connection.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Bytes of one stream that wait for the guest to take them.
const SEND_BUFFER: usize = 64 * 1024;
// HTTP/2 has no idle limit: pings find a guest that no longer answers although its kernel acknowledges.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// A guest's TLS connection to a domain with a transform.
pub(crate) struct Connection {
    pub(crate) guest: GuestStream,
    /// The bytes that were read to decide, from the first one.
    pub(crate) already_read: Vec<u8>,
    pub(crate) hello: ClientHello,
    pub(crate) name: DomainName,
    pub(crate) transform: Transform,
    pub(crate) addresses: Vec<Ipv4Addr>,
    /// The address and port that the guest has dialled. The port counts, the address only among `addresses`.
    pub(crate) destination: SocketAddrV4,
}

/// Serves a connection to its end. An error means that it was not served at all; refused requests are written to the
/// journal by the session.
pub(crate) async fn serve(
    proxy: &Arc<Proxy>,
    context: &Arc<EgressContext>,
    connection: Connection,
) -> Result<(), Denial> {
    let Connection { guest, already_read, hello, name, transform, addresses, destination } = connection;
    let unusable = |what: &'static str| Denial::Upstream { name: name.clone(), what: what.into() };
    let authority = context.authority.as_ref().ok_or_else(|| unusable("this sandbox has no CA for its transform"))?;
    let rules = Rules::new(&transform)
        .map(Arc::new)
        .ok_or_else(|| unusable("its transform has a header that cannot be sent"))?;
    let target = Target::new(name.clone(), destination)
        .map(Arc::new)
        .ok_or_else(|| unusable("its name cannot be the host of a URL"))?;
    let offered = terminate::offered(&hello)?;

    let (spawner, mut tasks) = Tasks::new();
    let connector = Connector {
        proxy: Arc::clone(proxy),
        context: Arc::clone(context),
        target: Arc::clone(&target),
        spawner: spawner.clone(),
    };
    let upstream = Upstream::new(connector);
    // A failure is not returned: the guest learns it from the answers to its requests.
    let agreed = tasks.run(upstream.connect(&addresses, offered.clone())).await;
    let alpn = agreed.map_or(offered, |protocol| protocol.alpn());
    let guest = Prefixed::new(already_read, guest, &context.journal);
    let provider = proxy.upstream.crypto_provider();
    let stream = tasks.run(terminate::terminate(provider, authority, &name, alpn, guest)).await?;

    let (context, switched) = (Arc::clone(context), Default::default());
    let is_ending = Default::default();
    let session = Arc::new(Session { context, target, rules, upstream, is_ending, switched });
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
        .header_read_timeout(HEADER_TIMEOUT)
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
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADER_BYTES as u32)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut was_shut_down = false;
    let served = poll_fn(|cx| {
        // HTTP/2 has no `Connection: close`; a GOAWAY makes the guest connect anew, when the upstream may work again.
        if !was_shut_down && session.is_ending.load(Ordering::Relaxed) {
            was_shut_down = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    });
    note(served.await);
}

fn note(served: hyper::Result<()>) {
    if let Err(error) = served {
        tracing::debug!(error = %chain(&error), "a guest's connection with a transform broke off");
    }
}

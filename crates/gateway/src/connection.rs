//! One client connection: the TLS handshake, then HTTP/1.1 or HTTP/2 by ALPN, in one task of one worker.
//!
//! `thread.rs` starts the task; each request is answered by [`Shared::answer`].

use crate::backends::Backends;
use crate::body::GatewayBody;
use crate::client::{Client, ConnCommand};
use crate::shared::Shared;
use crate::stats::count;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use leapbox_errors::chain;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Bytes that TLS takes from HTTP before they must be written to the socket.
// As many as one read from an application brings (`upstream.rs`), so that they are encrypted and written in one go.
// It is also all that a client which does not read makes us hold in TLS.
const TLS_BUFFER: usize = 256 * 1024;
/// Bytes that a client may send on one HTTP/2 stream before the application has taken them.
// The connection's window is four streams' worth: it bounds what one client makes us hold, however many streams it
// opens.
const H2_STREAM_WINDOW: u32 = 1024 * 1024;
const H2_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Interval of HTTP/2 pings, and the time a client has to answer one.
// HTTP/1.1 has a deadline for the next request's head. On HTTP/2 only a ping tells an idle client from one whose
// network is gone without a FIN.
const H2_PING_EVERY: Duration = Duration::from_secs(30);
const H2_PING_DEADLINE: Duration = Duration::from_secs(20);

/// Serves a connection until it ends.
pub(crate) async fn serve<B: Backends>(
    shared: Arc<Shared<B>>,
    client: Arc<Client>,
    socket: TcpStream,
    tls: TlsAcceptor,
) {
    // Nagle's algorithm would hold back a small answer, an event or a WebSocket message until the client acknowledges
    // the packet before it.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(error = %chain(&error), "could not set TCP_NODELAY on a client's connection");
    }
    let handshake = tls.accept_with(socket, |session| session.set_buffer_limit(Some(TLS_BUFFER)));
    let stream = match timeout(shared.config.limits.tls_handshake, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            count(&client.counters().handshakes_failed);
            return tracing::debug!(peer = %client.peer(), error = %chain(&error), "TLS handshake failed");
        }
        Err(_) => {
            count(&client.counters().handshakes_failed);
            return tracing::debug!(peer = %client.peer(), "TLS handshake took too long");
        }
    };
    let session = stream.get_ref().1;
    let is_h2 = session.alpn_protocol() == Some(b"h2");
    tracing::debug!(peer = %client.peer(), sni = session.server_name(), is_h2, "client connected");
    if is_h2 { serve_h2(shared, client, stream).await } else { serve_h1(shared, client, stream).await }
}

async fn serve_h1<B: Backends>(shared: Arc<Shared<B>>, client: Arc<Client>, stream: TlsStream<TcpStream>) {
    let limits = &shared.config.limits;
    // hyper's `half_close` stays off: a client that closes its sending side counts as gone and gets no answer, which is
    // how an abandoned request is noticed while the application still works on it (docs/api.md).
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .max_header_size(limits.max_header_bytes)
        // A refused connection ends with its 503, so that the permit is free for the next one to be refused.
        .keep_alive(!client.is_refused())
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
        // RFC 8441: without this setting in our SETTINGS frame no client opens a WebSocket over HTTP/2.
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

/// A connection that can be asked to end once its open requests are answered. hyper-util has such a trait, but seals it
/// and leaves out `UpgradeableConnection`.
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

/// Runs a connection until it ends or is stopped by a command.
async fn run(client: &Client, connection: impl Graceful) {
    let mut connection = pin!(connection);
    let mut is_finishing = false;
    let ended = poll_fn(|cx| {
        // Registered before the command is read: one that is given in between wakes this task again.
        client.waker.register(cx.waker());
        if client.has(ConnCommand::Stop) {
            return Poll::Ready(Ok(()));
        }
        if client.has(ConnCommand::Finish) && !is_finishing {
            is_finishing = true;
            connection.as_mut().end_gracefully();
        }
        connection.as_mut().poll(cx)
    });
    if let Err(error) = ended.await {
        tracing::debug!(peer = %client.peer(), error = %chain(&error), "a client's connection ended with an error");
    }
}

//! The upstream's side of one guest connection: one connection, opened again when it has ended.
//!
//! ```text
//!   before the guest's handshake:  connect, ALPN out of the guest's list ─► kept
//!   each request:                  kept and still open ─► send
//!                                  ended, or broken before a byte was sent ─► connect again, same protocol ─► send
//! ```
//!
//! A request is sent a second time only if none of it was sent before, or if it is safe (RFC 9110 §9.2.1), has no body,
//! and was sent on a connection that had been used before.

use super::body::Upload;
use super::connect::{Connector, NOT_HTTP, Protocol, Sender};
use super::refusal::Refusal;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use leapbox_egress_policy::Denial;
use leapbox_errors::chain;
use std::net::Ipv4Addr;
use tokio::sync::Mutex;

/// The connection to the upstream of one guest connection, shared by its requests.
pub(crate) struct Upstream {
    connector: Connector,
    state: Mutex<State>,
}

/// The state of the upstream's connection between two requests.
enum State {
    /// No connection was opened yet.
    Unconnected,
    /// The first connection failed. The guest has agreed on a protocol that the upstream never chose, so later attempts
    /// could not use it.
    Failed(Denial),
    /// The protocol is agreed on. The connection is absent while a request of HTTP/1.1 uses it, or once it has broken.
    Agreed { connection: Option<Connection>, protocol: Protocol },
}

/// A connection that can take a request.
struct Connection {
    sender: Sender,
    /// Whether it has had a request, and may have been closed by the server unnoticed since.
    was_used: bool,
}

type Unsent = TrySendError<Request<Upload>>;

impl Upstream {
    pub(crate) fn new(connector: Connector) -> Self {
        Self { connector, state: Mutex::new(State::Unconnected) }
    }

    /// Opens the first connection. `alpn` lists what the guest speaks, in its order. After a failure (`None`) every
    /// request is refused with the reason.
    pub(crate) async fn connect(&self, addresses: &[Ipv4Addr], alpn: Vec<Vec<u8>>) -> Option<Protocol> {
        let mut state = self.state.lock().await;
        match self.connector.open(addresses, alpn).await {
            Ok((sender, protocol)) => {
                *state = State::Agreed { connection: Some(Connection { sender, was_used: false }), protocol };
                Some(protocol)
            }
            Err(denial) => {
                *state = State::Failed(denial);
                None
            }
        }
    }

    /// Sends a request and returns the answer, its body still to be streamed.
    pub(crate) async fn send(&self, request: Request<Upload>) -> Result<Response<Incoming>, Refusal> {
        let copy = repeatable(&request);
        let mut connection = self.take().await?;
        let mut failed = match connection.send(request).await {
            Ok(answer) => {
                self.keep(connection).await;
                return Ok(answer);
            }
            Err(failed) => failed,
        };
        let request = match failed.take_message() {
            Some(unsent) => unsent,
            // A server may close a kept connection at any time. A first request on a new connection that breaks is the
            // upstream's fault, and repeating it would only double its load.
            None => copy
                .filter(|_| connection.was_used && is_broken(failed.error()))
                .ok_or_else(|| self.explain(&failed))?,
        };
        let upstream = self.connector.name();
        tracing::debug!(%upstream, error = %chain(failed.error()), "a kept connection broke; the request is repeated");
        let mut connection = self.replace(connection).await?;
        let answer = connection.send(request).await.map_err(|failed| self.explain(&failed))?;
        self.keep(connection).await;
        Ok(answer)
    }

    /// Returns the kept connection if it is still open, else a new one.
    async fn take(&self) -> Result<Connection, Refusal> {
        // Held while connecting: of several HTTP/2 requests the first one connects and the others share its connection.
        let mut state = self.state.lock().await;
        match &mut *state {
            // Closing lets the guest connect anew, which makes a new attempt with its whole ALPN list.
            State::Failed(denial) => Err(Refusal { closes: true, ..Refusal::upstream(denial.clone()) }),
            State::Unconnected => Err(Refusal::upstream(self.connector.failed("it was not connected to"))),
            State::Agreed { connection, protocol } => {
                if let Some(mut kept) = connection.take()
                    && kept.ready().await
                {
                    *connection = kept.share();
                    return Ok(kept);
                }
                let opened = self.reconnect(*protocol).await?;
                *connection = opened.share();
                Ok(opened)
            }
        }
    }

    /// Returns a connection in the place of a broken one. In HTTP/2 it may be one that another request has opened
    /// meanwhile.
    async fn replace(&self, broken: Connection) -> Result<Connection, Refusal> {
        drop(broken);
        self.take().await
    }

    /// Keeps an HTTP/1.1 connection for the next request; an HTTP/2 connection is shared and kept already.
    async fn keep(&self, mut used: Connection) {
        if matches!(used.sender, Sender::Http2(_)) {
            return;
        }
        used.was_used = true;
        if let State::Agreed { connection, .. } = &mut *self.state.lock().await {
            *connection = Some(used);
        }
    }

    async fn reconnect(&self, protocol: Protocol) -> Result<Connection, Refusal> {
        let (sender, spoken) = self.connector.open_again(protocol).await.map_err(Refusal::upstream)?;
        // The guest's side has one version of HTTP for its life, and requests are not translated.
        if (spoken == Protocol::Http2) != (protocol == Protocol::Http2) {
            return Err(Refusal::upstream(self.connector.failed("it now speaks another version of HTTP")));
        }
        Ok(Connection { sender, was_used: false })
    }

    fn explain(&self, failed: &Unsent) -> Refusal {
        let error = failed.error();
        tracing::debug!(upstream = %self.connector.name(), error = %chain(error), "an upstream did not answer");
        let what = if error.is_parse_too_large() {
            "its answer's headers are longer than 64 KiB"
        } else if error.is_parse() {
            NOT_HTTP
        } else {
            "it closed the connection without an answer"
        };
        Refusal::upstream(self.connector.failed(what))
    }
}

impl Connection {
    async fn ready(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Returns a handle of the same connection for other requests at the same time, which HTTP/2 allows.
    fn share(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => Some(Self { sender: Sender::Http2(sender.clone()), was_used: true }),
        }
    }

    async fn send(&mut self, request: Request<Upload>) -> Result<Response<Incoming>, Unsent> {
        match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        }
    }
}

/// Returns a copy of the request if sending it twice does no harm: a safe method and no body.
fn repeatable(request: &Request<Upload>) -> Option<Request<Upload>> {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !is_safe || !request.body().is_empty() {
        return None;
    }
    let mut copy = Request::new(request.body().empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

/// Whether the connection has broken, as opposed to an answer that could not be read.
fn is_broken(error: &hyper::Error) -> bool {
    !error.is_parse() && !error.is_user() && !error.is_timeout()
}

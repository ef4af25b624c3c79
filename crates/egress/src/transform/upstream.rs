//! The upstream's side of one guest connection: one connection, made again when it has gone away.
//!
//! ```text
//!   before the guest's handshake:  connect, ALPN out of the guest's list ─► kept
//!   each request:                  kept and still open ─► send
//!                                  gone, or died before a byte was sent ─► connect again, same protocol ─► send
//! ```
//!
//! A request goes a second time only if nothing of it was sent, or if it is safe (RFC 9110 §9.2.1), has no body, and
//! went over a connection that had been used before.

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

pub(crate) struct Upstream {
    connector: Connector,
    kept: Mutex<Kept>,
}

/// The connection between two requests.
enum Kept {
    /// It was not asked for yet.
    Nothing,
    /// The first one could not be made, and the guest was promised no protocol of the upstream's.
    Failed(Denial),
    /// The protocol is settled; the connection may be in use (HTTP/1.1), or have gone away.
    Settled { link: Option<Link>, protocol: Protocol },
}

/// A connection that can take a request.
struct Link {
    sender: Sender,
    /// It has had a request, and may have died unnoticed since.
    was_used: bool,
}

type Unsent = TrySendError<Request<Upload>>;

impl Upstream {
    pub(crate) fn new(connector: Connector) -> Self {
        Self { connector, kept: Mutex::new(Kept::Nothing) }
    }

    /// Makes the first connection. `alpn` is what the guest speaks, in its order. `None`: it failed, and every request
    /// will be refused with the reason.
    pub(crate) async fn connect(&self, addresses: &[Ipv4Addr], alpn: Vec<Vec<u8>>) -> Option<Protocol> {
        let mut kept = self.kept.lock().await;
        match self.connector.open(addresses, alpn).await {
            Ok((sender, protocol)) => {
                *kept = Kept::Settled { link: Some(Link { sender, was_used: false }), protocol };
                Some(protocol)
            }
            Err(denial) => {
                *kept = Kept::Failed(denial);
                None
            }
        }
    }

    /// Sends a request and returns the answer, its body still to be streamed.
    pub(crate) async fn send(&self, request: Request<Upload>) -> Result<Response<Incoming>, Refusal> {
        let again = replay(&request);
        let mut link = self.take().await?;
        let mut failed = match link.send(request).await {
            Ok(answer) => {
                self.give_back(link).await;
                return Ok(answer);
            }
            Err(failed) => failed,
        };
        let request = match failed.take_message() {
            Some(unsent) => unsent,
            None => again.filter(|_| link.was_used && is_death(failed.error())).ok_or_else(|| self.explain(&failed))?,
        };
        tracing::debug!(upstream = %self.connector.name(), error = %chain(failed.error()), "a kept connection had died");
        let mut link = self.replace(link).await?;
        let answer = link.send(request).await.map_err(|failed| self.explain(&failed))?;
        self.give_back(link).await;
        Ok(answer)
    }

    /// The kept connection, if it is still open, or a new one.
    async fn take(&self) -> Result<Link, Refusal> {
        let mut kept = self.kept.lock().await;
        match &mut *kept {
            Kept::Failed(denial) => Err(Refusal { closes: true, ..Refusal::upstream(denial.clone()) }),
            Kept::Nothing => Err(Refusal::upstream(self.connector.failed("it was not connected to"))),
            Kept::Settled { link, protocol } => {
                if let Some(mut there) = link.take()
                    && there.ready().await
                {
                    *link = there.share();
                    return Ok(there);
                }
                let made = self.again(*protocol).await?;
                *link = made.share();
                Ok(made)
            }
        }
    }

    /// A new connection for one that turned out to be dead. HTTP/2: whoever comes first makes it for all.
    async fn replace(&self, dead: Link) -> Result<Link, Refusal> {
        drop(dead);
        self.take().await
    }

    /// Keeps an HTTP/1.1 connection for the next request; one of HTTP/2 is kept already.
    async fn give_back(&self, mut used: Link) {
        if matches!(used.sender, Sender::Http2(_)) {
            return;
        }
        used.was_used = true;
        if let Kept::Settled { link, .. } = &mut *self.kept.lock().await {
            *link = Some(used);
        }
    }

    async fn again(&self, protocol: Protocol) -> Result<Link, Refusal> {
        // Names move while a connection stands; an answer that is remembered costs nothing.
        let (sender, spoken) = self.connector.open_again(protocol).await.map_err(Refusal::upstream)?;
        if (spoken == Protocol::Http2) != (protocol == Protocol::Http2) {
            return Err(Refusal::upstream(self.connector.failed("it now speaks another version of HTTP")));
        }
        Ok(Link { sender, was_used: false })
    }

    fn explain(&self, failed: &Unsent) -> Refusal {
        let error = failed.error();
        tracing::debug!(upstream = %self.connector.name(), error = %chain(error), "an upstream gave no answer");
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

impl Link {
    async fn ready(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// The same connection for others at the same time, which HTTP/2 allows.
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

/// The request once more, if sending it twice does no harm.
fn replay(request: &Request<Upload>) -> Option<Request<Upload>> {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !is_safe || !request.body().is_empty() {
        return None;
    }
    let mut again = Request::new(request.body().empty());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.version_mut() = request.version();
    *again.headers_mut() = request.headers().clone();
    *again.extensions_mut() = request.extensions().clone();
    Some(again)
}

/// Whether a connection ended before any answer.
fn is_death(error: &hyper::Error) -> bool {
    !error.is_parse() && !error.is_user() && !error.is_timeout()
}

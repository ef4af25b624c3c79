//! Serves plain HTTP/1. It is decided by `Host`, request by request, and each connection goes to one server.
//!
//! ```text
//!  guest ─► requests: head (strict) ─► body (by its framing) ─► next head … ─► server
//!        ◄───────────────────── answers, opaquely ◄──────────────────────────┘
//! ```
//!
//! All requests of a connection go to the server of the first one's name, so all must name it: a later request for
//! another name would reach that name's site on a shared server. That is also why framing is read so strictly: bytes
//! that the proxy takes for a body and the server for a request would be a request that no policy has seen.

mod requests;

use crate::buffer::Buffer;
use crate::context::EgressContext;
use crate::dial::{dial, resolve};
use crate::guest::GuestStream;
use crate::incoming::Incoming;
use crate::journal::Kind;
use crate::status::StatusWatch;
use crate::tunnel::{Pump, reset};
use leapbox_egress_policy::stream::Head;
use leapbox_egress_policy::{Denial, Passage};
use leapbox_errors::chain;
use requests::{Requests, asks_for_websocket};
use std::future::poll_fn;
use std::io;
use tokio::net::TcpStream;

/// The reason the proxy ended a connection.
pub(crate) enum Stop {
    /// A request is refused.
    Denied(Denial),
    /// The guest or the server has broken off.
    Broken(io::Error),
}

/// Serves a connection whose first request's head is read.
pub(crate) async fn serve(context: &EgressContext, mut incoming: Incoming, first: Head) -> Result<(), Denial> {
    let (removed, upstream) = match open(context, &mut incoming, &first).await {
        Ok(opened) => opened,
        Err(denial) => {
            incoming.guest.close_with(&refusal(&denial)).await;
            return Err(denial);
        }
    };
    context.journal.opened(Kind::Http);
    let Incoming { mut guest, held, permits: _permits, .. } = incoming;
    let mut upstream = upstream;
    match exchange(context, &mut guest, &mut upstream, held, first, removed).await {
        Ok(()) => guest.finish(),
        Err(Stop::Broken(error)) => {
            tracing::debug!(error = %chain(&error), "a plain connection broke off");
            reset(&upstream);
        }
        Err(Stop::Denied(denial)) => {
            // A reset, so that the server does not take what it has of the request for a whole one.
            reset(&upstream);
            drop(upstream);
            guest.close_with(&refusal(&denial)).await;
            return Err(denial);
        }
    }
    Ok(())
}

/// Decides about the first request and connects to its name's server. Returns the names of the headers to remove from
/// every request, and the server's connection.
async fn open(
    context: &EgressContext,
    incoming: &mut Incoming,
    first: &Head,
) -> Result<(Vec<String>, TcpStream), Denial> {
    let removed = match context.evaluator.name(&first.host)? {
        Passage::Opaque => Vec::new(),
        // Nothing is injected without TLS, where anyone on the way could read it. The guest's own headers of those
        // names are removed all the same: under this policy they never come from the guest.
        Passage::Transform(transform) => {
            transform.inject.iter().map(|(name, _)| name).chain(&transform.strip).cloned().collect()
        }
    };
    incoming.permits.decided();
    let addresses = resolve(context, &first.host).await?;
    let destination = incoming.destination;
    let upstream = dial(context, &first.host, &addresses, destination.port(), *destination.ip()).await?;
    Ok((removed, upstream))
}

async fn exchange(
    context: &EgressContext,
    guest: &mut GuestStream,
    upstream: &mut TcpStream,
    held: Buffer,
    first: Head,
    removed: Vec<String>,
) -> Result<(), Stop> {
    // Only the first request may switch to a WebSocket: the requests behind it are read strictly until the server has
    // agreed, and that is looked for in the first answer alone.
    let (watch, switched) = match asks_for_websocket(&first).then(StatusWatch::new) {
        Some((watch, switched)) => (Some(watch), Some(switched)),
        None => (None, None),
    };
    let (from_guest, to_guest) = guest.split();
    let (from_server, to_server) = upstream.split();
    let requests = Requests::new(from_guest, to_server, held, removed, context.journal.bytes_from_sandbox());
    let mut answers =
        Pump::new(from_server, to_guest, Buffer::default(), context.journal.bytes_to_sandbox()).watched_by(watch);
    let answers = async { poll_fn(|cx| answers.poll(cx)).await.map_err(Stop::Broken) };
    tokio::try_join!(requests.run(first, switched), answers)?;
    Ok(())
}

/// Returns the HTTP answer to a refused request, which closes the connection.
pub(crate) fn refusal(denial: &Denial) -> Vec<u8> {
    let status = status(denial);
    let text = format!("Leapbox did not pass this request on: {denial}\n");
    let length = text.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{text}"
    )
    .into_bytes()
}

fn status(denial: &Denial) -> &'static str {
    match denial {
        Denial::Malformed { .. } | Denial::NotAName { .. } => "400 Bad Request",
        Denial::DenyAll
        | Denial::Name { .. }
        | Denial::Address { .. }
        | Denial::NoName
        | Denial::EncryptedHello
        | Denial::Packet { .. }
        | Denial::QueryType { .. } => "403 Forbidden",
        Denial::Slow { .. } => "408 Request Timeout",
        Denial::Authority { .. } => "421 Misdirected Request",
        Denial::TooMany { .. } => "429 Too Many Requests",
        Denial::Unresolved { .. } | Denial::Upstream { .. } | Denial::ServerSilent { .. } => "502 Bad Gateway",
    }
}

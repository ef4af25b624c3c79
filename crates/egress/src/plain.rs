//! Plain HTTP/1: decided by `Host`, request by request, to one server per connection.
//!
//! ```text
//!  guest ─► requests: head (strict) ─► body (by its framing) ─► next head … ─► server
//!        ◄───────────────────── answers, opaquely ◄──────────────────────────┘
//! ```
//!
//! All requests of a connection go to the server of the first one's name, so all must name it: a later one for another
//! name would reach that name's site on a shared server. That is also why framing is read so strictly: what the server
//! took for a body and we for a request, or the reverse, would be a request that nobody has judged.

mod requests;

use crate::buffer::Buffer;
use crate::dial::{dial, resolve};
use crate::gate::Gate;
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

/// Why a connection's requests came to an end before the guest's.
pub(crate) enum Stop {
    /// A request that may not pass.
    Denied(Denial),
    /// Either side is gone.
    Broken(io::Error),
}

/// Serves a connection whose first request's head is read.
pub(crate) async fn serve(gate: &Gate, mut incoming: Incoming, first: Head) -> Result<(), Denial> {
    let (removed, upstream) = match open(gate, &mut incoming, &first).await {
        Ok(opened) => opened,
        Err(denial) => {
            incoming.guest.farewell(&refusal(&denial)).await;
            return Err(denial);
        }
    };
    gate.journal.opened(Kind::Http);
    let Incoming { mut guest, held, places: _places, .. } = incoming;
    let mut upstream = upstream;
    match exchange(gate, &mut guest, &mut upstream, held, first, removed).await {
        Ok(()) => guest.finish(),
        Err(Stop::Broken(error)) => {
            tracing::debug!(error = %chain(&error), "a plain connection broke off");
            reset(&upstream);
        }
        Err(Stop::Denied(denial)) => {
            reset(&upstream);
            drop(upstream);
            guest.farewell(&refusal(&denial)).await;
            return Err(denial);
        }
    }
    Ok(())
}

/// Decides about the first request and connects to its name's server. Answers what is taken out of every head.
async fn open(gate: &Gate, incoming: &mut Incoming, first: &Head) -> Result<(Vec<String>, TcpStream), Denial> {
    let removed = match gate.evaluator.name(&first.host)? {
        Passage::Opaque => Vec::new(),
        // No secret in the clear. And what a transform would replace, the guest may not say in its place.
        Passage::Transform(transform) => {
            transform.inject.iter().map(|(name, _)| name).chain(&transform.strip).cloned().collect()
        }
    };
    incoming.places.decided();
    let addresses = resolve(gate, &first.host).await?;
    let destination = incoming.destination;
    let upstream = dial(gate, &first.host, &addresses, destination.port(), *destination.ip()).await?;
    Ok((removed, upstream))
}

async fn exchange(
    gate: &Gate,
    guest: &mut GuestStream,
    upstream: &mut TcpStream,
    held: Buffer,
    first: Head,
    removed: Vec<String>,
) -> Result<(), Stop> {
    let (watch, switched) = match asks_for_websocket(&first).then(StatusWatch::new) {
        Some((watch, switched)) => (Some(watch), Some(switched)),
        None => (None, None),
    };
    let (from_guest, to_guest) = guest.split();
    let (from_server, to_server) = upstream.split();
    let requests = Requests::new(from_guest, to_server, held, removed, gate.journal.bytes_from_sandbox());
    let mut answers =
        Pump::new(from_server, to_guest, Buffer::default(), gate.journal.bytes_to_sandbox()).watched_by(watch);
    let answers = async { poll_fn(|cx| answers.poll(cx)).await.map_err(Stop::Broken) };
    tokio::try_join!(requests.run(first, switched), answers)?;
    Ok(())
}

/// The answer to a request that does not pass, as bytes.
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

//! The guest's first bytes: what they are, read under a deadline and a cap.

use crate::buffer::Buffer;
use crate::guest::GuestStream;
use leapbox_egress_policy::Denial;
use leapbox_egress_policy::stream::{ClientHello, Head, MAX_FIRST_BYTES, Progress, client_hello, http};
use std::future::poll_fn;
use std::io;
use tokio::net::tcp::ReadHalf;
use tokio::time::{Instant, timeout_at};

/// What a guest's first bytes are.
pub(crate) enum Spoken {
    /// A whole ClientHello.
    Tls(ClientHello),
    /// A whole head of an HTTP/1 request.
    Http(Head),
    /// The beginning of one of both, or nothing yet.
    Partial,
    /// Neither, whatever follows.
    Foreign,
}

/// How a connection's beginning went.
pub(crate) enum First {
    /// The guest has spoken.
    Spoken(Spoken),
    /// It has not, in time.
    Silence,
    /// It hung up before it was understood.
    Gone,
}

/// Says what bytes are.
///
/// # Errors
/// If they are TLS or HTTP/1, or pretend to be, and break its rules.
pub(crate) fn classify(bytes: &[u8]) -> Result<Spoken, Denial> {
    let tls = match client_hello::read(bytes)? {
        Progress::Done(hello) => return Ok(Spoken::Tls(hello)),
        Progress::More => Spoken::Partial,
        Progress::Other => Spoken::Foreign,
    };
    match (http::read(bytes)?, tls) {
        (Progress::Done(head), _) => Ok(Spoken::Http(head)),
        (Progress::Other, Spoken::Foreign) => Ok(Spoken::Foreign),
        (Progress::Other | Progress::More, _) => Ok(Spoken::Partial),
    }
}

/// Reads until the guest has said what it wants: its first byte until `begin`, the rest until `end`.
///
/// # Errors
/// As [`classify`].
pub(crate) async fn read(
    guest: &mut GuestStream,
    held: &mut Buffer,
    begin: Instant,
    end: Instant,
) -> Result<First, Denial> {
    let (mut from, _) = guest.split();
    loop {
        let until = if held.is_empty() { begin } else { end };
        match timeout_at(until, fill(held, &mut from, MAX_FIRST_BYTES)).await {
            Err(_) => return Ok(First::Silence),
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return Ok(First::Gone),
        }
        match classify(held.filled())? {
            // The readers refuse what is not complete within their limit, so there is room for more.
            Spoken::Partial => {}
            spoken => return Ok(First::Spoken(spoken)),
        }
    }
}

/// Reads once; 0 is the end of the stream, or a buffer that holds `most` bytes already.
pub(crate) async fn fill(held: &mut Buffer, from: &mut ReadHalf<'_>, most: usize) -> io::Result<usize> {
    poll_fn(|cx| held.poll_fill(cx, from, most)).await
}

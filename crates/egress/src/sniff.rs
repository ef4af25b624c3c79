//! Reads and classifies the guest's first bytes, under a deadline and a size cap.

use crate::buffer::Buffer;
use crate::guest::GuestStream;
use leapbox_egress_policy::Denial;
use leapbox_egress_policy::stream::{ClientHello, Head, MAX_FIRST_BYTES, Progress, client_hello, http};
use std::future::poll_fn;
use std::io;
use tokio::net::tcp::ReadHalf;
use tokio::time::{Instant, timeout_at};

/// The classification of a guest's first bytes.
pub(crate) enum FirstBytes {
    /// The bytes begin with a whole ClientHello.
    Tls(ClientHello),
    /// The bytes begin with the whole head of an HTTP/1 request.
    Http(Head),
    /// The bytes may still become one of both, or there are none yet.
    Partial,
    /// The bytes are neither, whatever follows.
    Foreign,
}

/// The outcome of reading a connection's first bytes.
pub(crate) enum Sniffed {
    /// The guest's bytes were classified.
    FirstBytes(FirstBytes),
    /// The guest has not sent enough in time.
    Silence,
    /// The guest has closed or reset the connection before its bytes could be classified.
    Gone,
}

/// Classifies the bytes so far.
///
/// # Errors
/// [`Denial::Malformed`] or [`Denial::NoName`] if they are TLS or HTTP/1, or look like it, and break its rules.
pub(crate) fn classify(bytes: &[u8]) -> Result<FirstBytes, Denial> {
    let tls = match client_hello::read(bytes)? {
        Progress::Done(hello) => return Ok(FirstBytes::Tls(hello)),
        Progress::More => FirstBytes::Partial,
        Progress::Other => FirstBytes::Foreign,
    };
    // Foreign only if both readers say so; a single byte is often a beginning of either.
    match (http::read(bytes)?, tls) {
        (Progress::Done(head), _) => Ok(FirstBytes::Http(head)),
        (Progress::Other, FirstBytes::Foreign) => Ok(FirstBytes::Foreign),
        (Progress::Other | Progress::More, _) => Ok(FirstBytes::Partial),
    }
}

/// Reads until the guest's bytes can be classified. The first byte has time until `begin`, the rest until `end`.
///
/// # Errors
/// As [`classify`].
pub(crate) async fn read(
    guest: &mut GuestStream,
    held: &mut Buffer,
    begin: Instant,
    end: Instant,
) -> Result<Sniffed, Denial> {
    let (mut from, _) = guest.split();
    loop {
        let until = if held.is_empty() { begin } else { end };
        match timeout_at(until, fill(held, &mut from, MAX_FIRST_BYTES)).await {
            Err(_) => return Ok(Sniffed::Silence),
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return Ok(Sniffed::Gone),
        }
        match classify(held.filled())? {
            // The readers refuse what is not complete within MAX_FIRST_BYTES, so the buffer has space left and a `fill`
            // of 0 bytes is the end of the stream.
            FirstBytes::Partial => {}
            first_bytes => return Ok(Sniffed::FirstBytes(first_bytes)),
        }
    }
}

/// Reads once. 0 means the end of the stream, or a buffer that holds `most` bytes already.
pub(crate) async fn fill(held: &mut Buffer, from: &mut ReadHalf<'_>, most: usize) -> io::Result<usize> {
    poll_fn(|cx| held.poll_fill(cx, from, most)).await
}

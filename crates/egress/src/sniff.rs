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
    /// The bytes are neither, whatever follows.
    Foreign,
}

/// The outcome of reading a connection's first bytes.
pub(crate) enum Sniffed {
    /// The guest's bytes were classified.
    FirstBytes(FirstBytes),
    /// A deadline has passed before the bytes could be classified. The guest may have sent some.
    TimedOut,
    /// The guest has closed or reset the connection before its bytes could be classified.
    Gone,
}

/// Classifies the bytes so far. Returns `None` if more of them are needed: they may still become TLS or HTTP/1.
///
/// # Errors
/// [`Denial::Malformed`] or [`Denial::NoName`] if they are TLS or HTTP/1, or look like it, and break its rules.
pub(crate) fn classify(bytes: &[u8]) -> Result<Option<FirstBytes>, Denial> {
    let may_be_tls = match client_hello::read(bytes)? {
        Progress::Done(hello) => return Ok(Some(FirstBytes::Tls(hello))),
        Progress::More => true,
        Progress::Other => false,
    };
    // Foreign only if both readers say so; a single byte is often a beginning of either.
    match http::read(bytes)? {
        Progress::Done(head) => Ok(Some(FirstBytes::Http(head))),
        Progress::Other if !may_be_tls => Ok(Some(FirstBytes::Foreign)),
        Progress::Other | Progress::More => Ok(None),
    }
}

/// Reads until the guest's bytes can be classified, or a deadline has passed: `first_byte_by` without any byte, else
/// `classified_by`.
///
/// # Errors
/// As [`classify`].
pub(crate) async fn read(
    guest: &mut GuestStream,
    held: &mut Buffer,
    first_byte_by: Instant,
    classified_by: Instant,
) -> Result<Sniffed, Denial> {
    let (mut from, _) = guest.split();
    loop {
        let deadline = if held.is_empty() { first_byte_by } else { classified_by };
        match timeout_at(deadline, fill(held, &mut from, MAX_FIRST_BYTES)).await {
            Err(_) => return Ok(Sniffed::TimedOut),
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return Ok(Sniffed::Gone),
        }
        // The readers refuse what is not complete within MAX_FIRST_BYTES, so the buffer has space left after `None`,
        // and a `fill` of 0 bytes is the end of the stream.
        if let Some(first_bytes) = classify(held.filled())? {
            return Ok(Sniffed::FirstBytes(first_bytes));
        }
    }
}

/// Reads once. 0 means the end of the stream, or a buffer that holds `most` bytes already.
pub(crate) async fn fill(held: &mut Buffer, from: &mut ReadHalf<'_>, most: usize) -> io::Result<usize> {
    poll_fn(|cx| held.poll_fill(cx, from, most)).await
}

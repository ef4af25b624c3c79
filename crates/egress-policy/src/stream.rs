//! Reads the name out of a connection's first bytes, for the egress proxy.
//!
//! The readers are pure and restartable: each gets all bytes so far, from the first one, and says whether it needs
//! more. Bytes that only look like TLS or HTTP are an error and never [`Progress::Other`], because a lenient server
//! might understand them. Once a reader has decided, more bytes do not change its decision: otherwise the way a guest
//! splits its segments would choose the outcome. The fuzz targets check this.

mod chunks;
pub mod client_hello;
pub mod http;

pub use chunks::Chunks;
pub use client_hello::ClientHello;
pub use http::{Framing, Head, Upgrade};

// One TLS record holds as much (RFC 8446, 5.1). It is several times what common clients send.
/// Bytes within which a TLS hello or a request's head must be complete; a longer one is refused.
pub const MAX_FIRST_BYTES: usize = 16 * 1024;

/// The state of a reader after the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress<T> {
    /// The bytes are a valid beginning, and the reader needs more.
    More,
    /// The value was read completely.
    Done(T),
    /// The bytes are of another protocol, whatever follows them.
    Other,
}

impl<T> Progress<T> {
    /// Turns `More` into an error once the limit is reached, so that a guest cannot make the proxy buffer without end.
    fn within(self, length: usize, too_long: &'static str) -> Result<Self, crate::Denial> {
        match self {
            Progress::More if length >= MAX_FIRST_BYTES => Err(crate::Denial::Malformed { what: too_long }),
            progress => Ok(progress),
        }
    }
}

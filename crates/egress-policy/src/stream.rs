//! Reads the name out of a connection's first bytes, for the egress proxy.
//!
//! Pure and restartable: each reader is given all bytes so far and says whether it needs more. What only looks like
//! TLS or HTTP is refused and never [`Progress::Other`], because a server might understand it all the same. A reader
//! that is done with some bytes says the same of them whatever follows.

mod chunks;
pub mod client_hello;
pub mod http;

pub use chunks::Chunks;
pub use client_hello::ClientHello;
pub use http::{Framing, Head, Upgrade};

/// Most bytes in which a TLS hello or a request's head must be complete.
pub const MAX_FIRST_BYTES: usize = 16 * 1024;

/// How far a reader has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress<T> {
    /// Give more bytes.
    More,
    /// This is it.
    Done(T),
    /// Not this protocol.
    Other,
}

impl<T> Progress<T> {
    /// `More` is an error once there are as many bytes as may be.
    fn within(self, length: usize, too_long: &'static str) -> Result<Self, crate::Denial> {
        match self {
            Progress::More if length >= MAX_FIRST_BYTES => Err(crate::Denial::Malformed { what: too_long }),
            progress => Ok(progress),
        }
    }
}

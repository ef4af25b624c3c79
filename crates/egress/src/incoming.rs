//! A guest's connection between its acceptance and the decision.

use crate::buffer::Buffer;
use crate::guest::GuestStream;
use crate::permits::ConnectionPermits;
use std::net::SocketAddrV4;

/// A guest's connection whose destination is not decided yet.
pub(crate) struct Incoming {
    pub(crate) guest: GuestStream,
    /// The address and port that the guest has dialled.
    pub(crate) destination: SocketAddrV4,
    /// The bytes that the guest has sent; none of them has been passed on.
    pub(crate) held: Buffer,
    pub(crate) permits: ConnectionPermits,
}

//! A guest's connection while it is not decided where it leads.

use crate::buffer::Buffer;
use crate::guest::GuestStream;
use crate::places::Places;
use std::net::SocketAddrV4;

/// A connection before its decision.
pub(crate) struct Incoming {
    pub(crate) guest: GuestStream,
    /// Where the guest has dialled.
    pub(crate) destination: SocketAddrV4,
    /// What it has said, not passed on yet.
    pub(crate) held: Buffer,
    pub(crate) places: Places,
}

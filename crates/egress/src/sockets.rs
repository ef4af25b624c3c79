//! The socket options that the guest's and the server's sockets share.

use nix::sys::socket::{setsockopt, sockopt};
use std::os::fd::AsFd;

// Tunnels have no idle limit, so only keepalive finds a peer that has vanished: within two minutes (60 + 4 × 15 s).
const KEEPALIVE_IDLE_S: u32 = 60;
const KEEPALIVE_INTERVAL_S: u32 = 15;
const KEEPALIVE_PROBES: u32 = 4;

/// Sets TCP_NODELAY and keepalive.
pub(crate) fn set_options(socket: &impl AsFd) -> nix::Result<()> {
    // The proxy writes whatever it has read at once; Nagle's algorithm would hold back small messages on the way.
    setsockopt(socket, sockopt::TcpNoDelay, &true)?;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S)?;
    setsockopt(socket, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)
}

//! The egress proxy: what a sandbox under a custom policy says over TCP passes through here and is judged by name.
//!
//! ```text
//!  guest ─► (nft redirect) ─► serve ─► connection ─┬─ TLS, by SNI ──────────► dial ─► tunnel ─────────► server
//!                             places   reads the   ├─ TLS, a transform's ───► transform ──────────────► server
//!                             (limits) first bytes ├─ HTTP/1, by Host ──────► dial ─► plain ──────────► server
//!                                                  └─ silence, other bytes ─► nameless: the server speaks first
//! ```
//!
//! The network crate makes a listener inside the sandbox's namespace, a [`Gate`] (policy, names, journal, authority)
//! for the sandbox, and runs [`serve`] for as long as the sandbox's machine lives. Dropping that future ends every
//! connection of the sandbox at once.
//!
//! Invariant: an address is dialled only right after the evaluator has allowed that very address (`dial`), the guest's
//! choice of an address counts only among the answers of *our* resolver, and all dialled sockets carry [`PROXY_MARK`],
//! under which the host's table allows no local address.

#![forbid(unsafe_code)]

mod authority;
mod buffer;
mod connection;
mod dial;
mod first;
mod gate;
mod guest;
mod incoming;
mod journal;
mod limits;
mod nameless;
mod places;
mod plain;
mod proxy;
mod serve;
mod sockets;
mod status;
mod transform;
mod tunnel;

pub use authority::{Authority, AuthorityError};
pub use gate::{Gate, Names};
pub use journal::{Journal, JournalNumbers, Kind};
pub use proxy::{Proxy, ProxyError};
pub use serve::serve;

/// The mark (SO_MARK) on every socket that the proxy dials; the host's table knows the proxy's packets by it.
pub const PROXY_MARK: u32 = 0x4c42;

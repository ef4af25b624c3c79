//! The egress proxy. All TCP of a sandbox under a `custom` policy that is not for an allowed network passes through it
//! and is decided by the name that the connection shows. Under `deny-all` the proxy resets and counts what is tried.
//!
//! ```text
//!  guest ─► (nft redirect) ─► serve ─► connection ──┬─ TLS, by SNI ──────────► dial ─► tunnel ─────────► server
//!                             permits  reads the    ├─ TLS, a transform's ───► transform ──────────────► server
//!                             (limits) first bytes  ├─ HTTP/1, by Host ──────► dial ─► plain ──────────► server
//!                                      (sniff)      └─ no or other bytes ────► server_speaks_first ────► server
//! ```
//!
//! The network crate opens a listener inside the sandbox's network namespace, makes an [`EgressContext`] (policy,
//! name server, journal, certificate authority) for the sandbox, and runs [`serve`] for as long as the sandbox's VM
//! lives. Dropping that future ends every connection of the sandbox at once.
//!
//! Invariant: an address is dialled only right after the evaluator has allowed that very address (`dial`); the address
//! that the guest has dialled is used only if the sandbox's name server has returned it for an allowed name; and all
//! dialled sockets carry [`PROXY_MARK`]. Under that mark the host's table (crate `leapbox-network`, `rules/host.nft`,
//! chain `dialled`) refuses closed addresses and the host's own, except those that the operator lists.

#![forbid(unsafe_code)]

mod authority;
mod buffer;
mod connection;
mod context;
mod dial;
mod guest;
mod incoming;
mod journal;
mod limits;
mod permits;
mod plain;
mod proxy;
mod serve;
mod server_speaks_first;
mod sniff;
mod sockets;
mod status;
mod transform;
mod tunnel;

pub use authority::{Authority, AuthorityError};
pub use context::{EgressContext, NameServer};
pub use journal::{Journal, JournalNumbers, Kind};
pub use proxy::{Proxy, ProxyError};
pub use serve::serve;

/// The mark (SO_MARK) on every socket that the proxy dials. The proxy dials from the server's namespace, and the
/// host's table tells its packets from the host's own by the mark. The number ("LB" in ASCII) has no other meaning.
pub const PROXY_MARK: u32 = 0x4c42;

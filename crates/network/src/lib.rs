//! Gives every sandbox a network namespace of its own (a *slot*) and isolates it from everything but the public
//! internet.
//!
//! ```text
//!   guest            slot: an anonymous network namespace              root namespace: the server's own
//!  ┌───────┐        ┌───────────────────────────────────────┐        ┌──────────────────────────────────┐
//!  │ eth0 ─┼────────┼─ tap0 ── netdev: addresses fixed      │        │  table inet leapbox_<instance>   │
//!  │  .2   │        │   .1     inet: DNS, proxy, direct     │        │  no closed address, no host,     │
//!  │       │        │           │ snat                      │        │  no other slot, nothing new in   │
//!  │       │        │         uplink ───────── veth /31 ────┼────────┼─ lb<instance>s<index> ─ NAT ─ up │
//!  │ eth1 ─┼────────┼─ tap1    (guest channel, never routed)│        │                                  │
//!  └───────┘        └───────────────────────────────────────┘        └──────────────────────────────────┘
//! ```
//!
//! A guest has two network cards. *The workload's card* is its `eth0`, whose other end in the slot is `tap0`:
//! everything that runs in the sandbox uses it, and a policy is about it alone. *The channel* is its `eth1`, whose
//! other end is `tap1`: the server reaches the guest's agent over it.
//!
//! Guest addresses are the same in every sandbox, so that a snapshot fits into any slot. Sandboxes are told apart by
//! the slot's index, which decides the slot's own address, its veth's name and the uid of its VMM. Slots are prepared
//! in a pool ([`Network::start_pool`]), used once, and never given to a second sandbox.
//!
//! Nothing is pinned under a path: a slot lives exactly as long as its VMM or this process holds its descriptor, so a
//! killed server leaves nothing behind. The host-wide table is replaced in one transaction at every start, and its
//! number of rules does not depend on the number of slots. While the server runs, it puts back what other programs
//! remove of the table, and nothing leaves a slot meanwhile (`host_table`).
//!
//! From a new slot nothing leaves. [`PolicyInstaller::install`] gives it the policy of its sandbox, once. Destinations
//! that are reached directly become elements of the slot's own sets; all other TCP is redirected to the egress proxy
//! (crate `leapbox-egress`), which listens inside the slot and dials from the root namespace, with a mark that the
//! host-wide table checks again.
//!
//! Each slot has a name server at its first address, run by this process, which answers as far as the policy allows.
//! Without the server sandboxes have no name server, and nobody listens behind the redirection: they fail closed.
//!
//! `lifecycle` and `bases` take slots; `doctor` asks [`host_facts`], and a server that starts asks [`check_takeover`]
//! before it touches anything.
//!
//! Invariant: no thread of the async runtime ever changes its network namespace; see `namespace`.

#![deny(unsafe_code)]

mod block;
mod claims;
mod config;
mod dns;
mod error;
mod host;
mod host_table;
mod index_allocator;
mod links;
mod namespace;
mod network;
mod nft;
mod plan;
mod policy;
mod prepare;
mod refusals;
mod releases;
mod rules;
mod shared;
mod slot;
mod stand_in;
mod sysctl;
mod takeover;
mod tap;

pub use block::{InvalidBlock, Ipv4Block};
pub use config::{GuestLink, NetworkConfig, default_base_uid};
pub use dns::DnsStats;
pub use error::NetworkError;
pub use host::{ForwardDrop, HostFacts, host_facts};
pub use leapbox_egress::{Authority, AuthorityError, Journal};
pub use network::{HostTable, Network, NetworkStats};
pub use plan::{CHANNEL_TAP, WORKLOAD_TAP};
pub use policy::{PolicyInstaller, SlotPolicy};
pub use slot::{Slot, SlotConnector};
pub use stand_in::STAND_IN;
pub use sysctl::SysctlChange;
pub use takeover::{TakeoverObstacle, check_takeover};

/// Entry points of the fuzz targets; nothing else calls them.
#[doc(hidden)]
pub mod fuzz {
    /// Runs a query through a slot's name server without an upstream, and an upstream's answer back through its filter.
    pub fn dns(bytes: &[u8], evaluator: &leapbox_egress_policy::Evaluator) {
        crate::dns::fuzz(bytes, evaluator);
    }
}

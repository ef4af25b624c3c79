//! A network of its own for every sandbox, and a wall between it and everything that is not the public internet.
//!
//! ```text
//!   guest            slot: an anonymous network namespace              root: the server's own namespace
//!  ┌───────┐        ┌───────────────────────────────────────┐        ┌──────────────────────────────────┐
//!  │ eth0 ─┼────────┼─ tap0 ── netdev: addresses fixed      │        │  table inet leapbox_<instance>   │
//!  │  .2   │        │   .1     inet: DNS, proxy, direct     │        │  no private address, no host,    │
//!  │       │        │           │ snat                      │        │  no other slot, nothing new in   │
//!  │       │        │         uplink ───────── veth /31 ────┼────────┼─ lb<instance>s<index> ─ NAT ─ up │
//!  │ eth1 ─┼────────┼─ tap1    (guest channel, never routed)│        │                                  │
//!  └───────┘        └───────────────────────────────────────┘        └──────────────────────────────────┘
//! ```
//!
//! Guest addresses are the same in every sandbox, so that a snapshot fits anywhere; what tells sandboxes apart is the
//! slot's index, which decides the slot's own address, its veth's name and the uid of its VMM. Slots are prepared in
//! a pool ([`Network::start_pool`]), used once, and never handed to a second sandbox.
//!
//! Nothing is pinned under a path: a slot lives exactly as long as its VMM or this process holds its descriptor, so a
//! killed server leaves nothing behind. The host-wide table is replaced in one transaction at every start, and its
//! number of rules does not depend on the number of slots.
//!
//! A slot is born closed. [`Gatekeeper::admit`] gives it the policy of its sandbox, once: what may leave by itself are
//! elements of the slot's own sets; all other TCP is redirected to the egress proxy (crate `leapbox-egress`), which
//! listens inside the slot and dials from the root namespace, with a mark that the host-wide table checks again.
//!
//! Names are resolved by this process, at the gateway address inside each slot, as far as the policy allows. Without it
//! sandboxes have no names, and nobody behind the redirection: they fail closed.
//!
//! Callers: `lifecycle` and `bases` take slots, `doctor` asks [`host_facts`].
//!
//! Invariant: no thread of the async runtime ever changes its network namespace; see `namespace`.

#![deny(unsafe_code)]

mod block;
mod config;
mod dns;
mod error;
mod host;
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
mod stock;
mod sysctl;
mod tap;

pub use block::{InvalidBlock, Ipv4Block};
pub use config::{GuestLink, NetworkConfig};
pub use dns::DnsStats;
pub use error::NetworkError;
pub use host::{ForwardDrop, HostFacts, host_facts};
pub use leapbox_egress::{Authority, AuthorityError, Journal};
pub use network::{HostTable, Network, NetworkStats};
pub use plan::{CHANNEL_TAP, WORKLOAD_TAP};
pub use policy::{Admission, Gatekeeper};
pub use slot::{Slot, SlotConnector};
pub use stand_in::STAND_IN;
pub use sysctl::SysctlChange;

/// For the fuzzer alone.
#[doc(hidden)]
pub mod fuzz {
    /// The way of a query through a slot's name server, and of an upstream's answer back.
    pub fn dns(bytes: &[u8], evaluator: &leapbox_egress_policy::Evaluator) {
        crate::dns::fuzz(bytes, evaluator);
    }
}

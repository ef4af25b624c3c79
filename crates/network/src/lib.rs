//! A network of its own for every sandbox, and a wall between it and everything that is not the public internet.
//!
//! ```text
//!   guest            slot: an anonymous network namespace              root: the server's own namespace
//!  ┌───────┐        ┌───────────────────────────────────────┐        ┌──────────────────────────────────┐
//!  │ eth0 ─┼────────┼─ tap0 ── netdev: addresses fixed      │        │  table inet leapbox_<instance>   │
//!  │  .2   │        │   .1     inet: DNS in, all else out   │        │  no private address, no host,    │
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
//! Names are resolved by this process, at the gateway address inside each slot; without it sandboxes have no DNS.
//!
//! Callers: `lifecycle` and `templates` take slots, `doctor` asks [`host_facts`].
//!
//! Invariant: no thread of the async runtime ever changes its network namespace; see `namespace`.

#![deny(unsafe_code)]

mod config;
mod dns;
mod error;
mod host;
mod links;
mod namespace;
mod network;
mod nft;
mod plan;
mod pool;
mod prepare;
mod rules;
mod slot;
mod stock;
mod sysctl;
mod tap;

pub use config::{Ipv4Block, NetworkConfig};
pub use dns::DnsStats;
pub use error::NetworkError;
pub use host::{ForwardDrop, HostFacts, host_facts};
pub use network::{HostTable, Network, NetworkStats};
pub use plan::{
    CHANNEL_GUEST, CHANNEL_GUEST_MAC, CHANNEL_HOST, CHANNEL_TAP, GUEST_PREFIX, WORKLOAD_GATEWAY, WORKLOAD_GUEST,
    WORKLOAD_GUEST_MAC, WORKLOAD_TAP,
};
pub use slot::{Slot, SlotConnector};
pub use sysctl::SysctlChange;

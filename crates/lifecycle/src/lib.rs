//! The life of sandboxes: who may be created, where machines come from, what happens to them, and how they survive
//! the server.
//!
//! ```text
//! api, gateway ──► service ──► capacity ──► pool, else vm (slot, disk, restore, agent)
//!                     │                          │
//!                     └──► sandbox: one task per sandbox, the only writer of its state
//!                              └── policy: may this be done now? (pure)
//! ```
//!
//! [`Lifecycle::ensure_running`] is the one place through which requests reach a sandbox.
//!
//! Invariant: a clone is handed out only after its guest has confirmed fresh randomness, clock and identity.
//! Invariant: a state is in the database before anybody is told of it.
//! Invariant: what is taken from the host is on the machine's clean-up stack or found by recovery.

#![forbid(unsafe_code)]

mod capacity;
mod catalog;
mod cleanup;
mod clock;
mod error;
mod policy;
mod pool;
mod recovery;
mod sandbox;
mod service;
mod stats;
mod view;
mod vm;

pub use capacity::CapacityLimits;
pub use error::{LaunchError, LifecycleError, StartError, chain};
pub use pool::PoolLimits;
pub use service::{Lifecycle, LifecycleConfig, Parts, RunningSandbox};
pub use stats::{BUCKETS_MS, LatencyStats, LifecycleStats};

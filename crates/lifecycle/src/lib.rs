//! The life of sandboxes: who may be created, where machines come from, what happens to them, and how they survive
//! the server.
//!
//! ```text
//! api, gateway ──► service, create, snapshots ──► sandbox: one task per sandbox, the only writer of its state
//!                                                    ├── policy: may this be done now? (pure)
//!                                                    └── machines: pool, launch, checkpoints (this host's)
//! at start: recovery ─► garbage, and that again every few minutes
//! ```
//!
//! [`Lifecycle::ensure_running`] is the one place through which requests reach a sandbox, and the one that wakes it.
//!
//! Invariant: a machine is handed out only after its guest has confirmed fresh randomness, clock and identity.
//! Invariant: a state is in the database before anybody is told of it.
//! Invariant: what is stored is on disk before the row that names it, and removed after the last row that did.
//! Invariant: a sandbox has at most one machine: a new one begins after the old one has ended.
//! Invariant: what is taken from the host is on the machine's clean-up stack or found by recovery.

#![forbid(unsafe_code)]

mod catalog;
mod clock;
mod config;
mod create;
mod error;
mod garbage;
mod handle;
mod inner;
mod machines;
mod names;
mod policy;
mod recovery;
mod request;
mod sandbox;
mod sealed;
mod service;
mod snapshots;
mod stats;
mod usable;
mod view;

pub use catalog::{Catalog, Template};
pub use config::{CapacityLimits, LifecycleConfig, Parts, PoolLimits};
pub use error::{CheckpointError, LaunchError, LifecycleError, SealedError, StartError, WakeFailure};
pub use machines::{CheckpointPin, Egress, Identity, Machines, SandboxVm};
pub use service::Lifecycle;
pub use stats::{BUCKETS_MS, LatencyStats, LifecycleStats, MachineNumbers};
pub use usable::RunningSandbox;

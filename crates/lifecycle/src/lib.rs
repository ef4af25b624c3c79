//! The life of sandboxes: this crate creates, pauses, wakes, stops, snapshots and deletes them, gets a machine (a VM)
//! for each, and takes them over when the server is restarted.
//!
//! ```text
//! api, gateway ──► service, create, snapshots ──► sandbox: one task per sandbox, the only writer of its state
//!                                                    ├── policy: may this be done now? (pure)
//!                                                    └── machines: pool, launch, checkpoints (this host's)
//! at start: recovery ─► garbage, which then runs again every few minutes
//! ```
//!
//! [`Lifecycle::ensure_running`] is the one place through which requests reach a sandbox, and the one that wakes it.
//!
//! Invariant: a machine is used only after its guest has confirmed fresh randomness, clock and identity.
//! Invariant: a state is in the database before it is published.
//! Invariant: a checkpoint is on disk before the row that names it is written, and is removed after the last such row.
//! Invariant: a sandbox has at most one machine: a new one begins after the old one has ended.
//! Invariant: every resource taken from the host is on the machine's clean-up stack or found by recovery.

#![forbid(unsafe_code)]

mod catalog;
mod clock;
mod config;
mod create;
mod error;
mod garbage;
mod handle;
mod machines;
mod policy;
mod recovery;
mod request;
mod running_sandbox;
mod sandbox;
mod sealed;
mod service;
mod shared;
mod snapshot_names;
mod snapshots;
mod stats;
mod view;

pub use catalog::{Catalog, Template};
pub use config::{CapacityLimits, LifecycleConfig, Parts, PoolLimits};
pub use error::{CheckpointError, LaunchError, LifecycleError, SealedError, StartError, WakeFailure};
pub use machines::{Activation, CheckpointPin, Egress, Machines, SandboxVm};
pub use running_sandbox::RunningSandbox;
pub use service::Lifecycle;
pub use stats::{BUCKETS_MS, LatencyStats, LifecycleStats, MachineNumbers};

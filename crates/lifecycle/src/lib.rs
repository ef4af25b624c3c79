//! The life of sandboxes: this crate creates, pauses, wakes, stops, snapshots and deletes them, gets a machine (a VM)
//! for each, and takes them over when the server is restarted.
//!
//! ```text
//! api, gateway ──► service, create, snapshots ──► sandbox: one task per sandbox, the only writer of its state
//!                                                    ├── policy: may this be done now? (pure)
//!                                                    └── machines: pool, launch, checkpoints (this host's)
//! at start: takeover (do the settings fit what runs?) ─► recovery ─► garbage, which then runs again every few minutes
//! ```
//!
//! [`Lifecycle::ensure_running`] is the one place through which HTTP requests reach a guest, and the one that wakes a
//! sandbox.
//!
//! ARCHITECTURE.md lists the invariants that this crate keeps, under "Lifecycle" and "Storage".

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
mod takeover;
mod view;

pub use catalog::{Catalog, Template};
pub use config::{CapacityLimits, LifecycleConfig, Parts, PoolLimits};
pub use error::{CheckpointError, LaunchError, LifecycleError, SealedError, StartError, WakeFailure};
pub use machines::{Activation, CheckpointPin, Egress, FoundMachine, Machines, Owner, SandboxVm};
pub use recovery::UnknownMachines;
pub use running_sandbox::RunningSandbox;
pub use service::Lifecycle;
pub use stats::{BUCKETS_MS, LatencyStats, LifecycleStats, MachineNumbers};
pub use takeover::check_takeover;

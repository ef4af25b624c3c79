//! The boundary to the virtual machine monitors: one small trait, a driver in a folder of its own beside the others.
//!
//! ```text
//!            boot ──► Machine (template's own, RAM in a file) ──► into_warm_snapshot ──► Snapshot
//!    Snapshot ──► restore ──► Machine (copy-on-write clone of the RAM, a disk of its own)
//!       its base + changes ──► restore ──► Machine ──► snapshot_diff ──► changes: the whole difference to that base
//!          record ──► adopt   ──► Machine (after the server was restarted)
//! ```
//!
//! A VMM outlives the server: everything needed to find it again is in its [`MachineRecord`]. A driver gets network
//! namespaces, disks and images ready made and knows nothing of sandboxes, organisations or HTTP. Called by
//! `templates` (boot, warm snapshot) and `lifecycle` (restore, adopt, kill).

mod blocking;
mod cgroup;
pub mod confine;
mod driver;
mod error;
mod firecracker;
pub mod floor;
mod log;
mod machine;
mod memory;
mod process;
mod qemu;
mod record;
mod shape;
mod socket;
mod spec;
mod started;
mod watchdog;

pub use cgroup::Cgroups;
pub use driver::{Capabilities, Vmm};
pub use error::{ExitReason, VmmError};
pub use firecracker::binaries::{self, Binaries};
pub use firecracker::{Firecracker, FirecrackerConfig, version};
pub use machine::Machine;
pub use process::{become_subreaper, private_bytes};
pub use qemu::{Qemu, QemuConfig};
pub use record::MachineRecord;
pub use shape::Shape;
pub use spec::{BootSpec, Confinement, DiffSnapshot, GuestImage, IoLimits, NetworkAttachment, RestoreSpec, Snapshot};

//! The boundary to the virtual machine monitors (VMMs): the small trait [`Vmm`] and its two drivers, `firecracker` and
//! `qemu`.
//!
//! ```text
//!                   boot ──► Machine (RAM in a file) ──► into_base_snapshot ──► Snapshot, a base
//!     base ──────► restore ──► Machine (copy-on-write clone of the RAM, a disk of its own)
//!     base + changes ──► restore ──► Machine ──► snapshot_diff ──► the whole difference to that base
//!     record ────► adopt   ──► Machine (after the server was restarted)
//! ```
//!
//! A VMM outlives the server: everything needed to find it again is in its [`MachineRecord`]. A driver gets network
//! namespaces, disks and images ready made and knows nothing of sandboxes, organisations or HTTP. Called by `bases`
//! (boot, base snapshots) and `lifecycle` (restore, adopt, destroy).

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
mod standing;
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
pub use record::{Life, MachineRecord};
pub use shape::Shape;
pub use spec::{BootSpec, Confinement, DiffSnapshot, GuestImage, IoLimits, NetworkAttachment, RestoreSpec, Snapshot};

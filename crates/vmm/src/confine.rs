//! Confines a VMM that has no jailer of its own. The QEMU driver calls [`launch()`]; Firecracker has its own jailer,
//! which does the same.
//!
//! ```text
//! server ── spec + descriptors over a socket ──► `leapbox confine` (root)
//!             │  joins cgroups, enters the network namespace, opens the taps,
//!             │  new mount, pid, ipc, uts and cgroup namespaces
//!             └─fork─► pid 1 of its pid namespace: read-only root, rlimits, no capabilities,
//!                      own uid, no_new_privs ──exec──► VMM (which adds seccomp)
//! ```
//!
//! The VMM gets everything as open descriptors at fixed numbers, so that it needs no path of the host: it can write
//! none and sees none.

mod child;
mod launch;
mod spec;
mod tap;

pub use child::main;
pub use launch::{Launched, launch};
pub use spec::{ConfineSpec, PassedFd, Rlimits, TapFd};
pub(crate) use tap::open_tap;

//! The walls around a VMM that has no jailer of its own.
//!
//! ```text
//! server ── spec + descriptors over a socket ──► `leapbox confine` (root)
//!             │  joins cgroups, enters the network namespace, opens the taps,
//!             │  new mount, pid, ipc, uts and cgroup namespaces
//!             └─fork─► pid 1 of its pid namespace: read-only root, rlimits, no capabilities,
//!                      own uid, no_new_privs ──exec──► VMM (which adds seccomp)
//! ```
//!
//! The VMM gets everything as open descriptors at fixed numbers: no path of the host is writable, or even visible, to
//! it. Firecracker's own jailer does the same for the Firecracker driver; this is for the others.

mod child;
mod launch;
mod spec;
mod tap;

pub use child::main;
pub use launch::{Launched, launch};
pub use spec::{ConfineSpec, PassedFd, Rlimits, TapFd};
pub(crate) use tap::open_tap;

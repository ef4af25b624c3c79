//! Reads and writes guest memory from outside the VMM: finds the pages that a guest has written since it was restored,
//! and writes them again when a machine is restored with them.
//!
//! Every driver maps a base's RAM copy-on-write. The kernel's page tables therefore say what differs from the base: a
//! page of that mapping that the guest has written is anonymous, one that it has only read is still the file's.
//!
//! - *difference*: all pages of a machine's memory that differ, or may differ, from its base's.
//! - *changes*: the same pages, as they are read from an archive to restore a machine.
//! - *overlay*: to write changes over a copy of the base's memory file, which is then an *overlaid memory*.
//! - *inherited pages*: the pages of an overlaid memory that came from changes. They are the file's and not anonymous,
//!   so a file in the machine's directory lists them for its next difference.
//!
//! ```text
//! save:     /proc/PID/maps ─► pieces of the RAM ─/proc/PID/pagemap─► runs of pages
//!             ├─ present ─────────────────► WorkingSet ─► prefetch
//!             └─ anonymous, or inherited ─► difference ─► archive
//!
//! restore:  archive ─► changes
//!             ├─ overlay (Firecracker) ─► the file that the VMM maps, and its inherited pages
//!             └─ inject (QEMU) ─────────► anonymous pages of a VMM that has mapped the base
//! ```
//!
//! A difference is always the whole one to the base, also of a machine that was itself restored with changes. Nothing
//! is recorded while a machine runs, and nothing is asked of the VMM: a difference can be taken again after a failed
//! attempt, or by a server that was restarted. A guest may have taken over its VMM, so every size is bounded by the
//! [`Shape`](crate::Shape) that was given to it. Called by both drivers.

mod changes;
mod difference;
mod inherited_pages;
mod inject;
mod mapping;
mod overlay;
mod pages;
mod ranges;
#[cfg(test)]
mod testing;
mod working_set;

pub(crate) use difference::difference;
pub(crate) use inherited_pages::InheritedPages;
pub(crate) use inject::inject;
pub(crate) use mapping::{Mapping, Proc};
pub(crate) use overlay::{OverlaidMemory, overlay};
pub(crate) use working_set::WorkingSet;

/// The size of a page in bytes; x86-64 has no other base page size.
const PAGE: u64 = 4096;

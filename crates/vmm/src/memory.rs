//! Reads and writes guest memory from outside the VMM: finds the pages that a guest has written since it was restored,
//! and lays them over the base's memory again when the machine is restored with them.
//!
//! Every driver maps a base's RAM copy-on-write. The kernel's page tables therefore say what a diff needs: a page of
//! that mapping that the guest has written is anonymous, one that it has only read is still the file's.
//!
//! ```text
//! /proc/PID/maps ──► pieces of the RAM ──/proc/PID/pagemap──► runs of pages
//!                          ├─ any present ──► WorkingSet ──► prefetch
//!                          └─ anonymous ──/proc/PID/mem──► difference ──► changes ─┐
//!                                                              ▲                   │
//!                          lists the pages of the changes ─────┤  overlay ◄────────┤  into a file that the VMM maps
//!                          makes them anonymous at once ───────┴── inject ◄────────┘  into a VMM that maps the base
//! ```
//!
//! A diff is always the whole difference to the base, also of a machine that was itself restored with changes. Nothing
//! is recorded while a machine runs, and nothing is asked of the VMM: a diff can be taken again after a failed attempt,
//! or by a server that was restarted. A guest may have taken over its VMM, so every size is bounded by the
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

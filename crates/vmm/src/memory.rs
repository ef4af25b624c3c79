//! Guest memory from the outside: which pages a VMM's guest has written since it was restored, and what becomes of them.
//!
//! Every driver maps a base's RAM copy-on-write. The kernel therefore keeps the books that a diff needs: a page of that
//! mapping that the guest has written is anonymous, one that it has only read is still the file's.
//!
//! ```text
//! /proc/PID/maps ──► pieces of the RAM ──/proc/PID/pagemap──► runs of pages
//!                          ├─ any present ──► WorkingSet ──► prefetch
//!                          └─ anonymous ──/proc/PID/mem──► difference ──► changes ─┐
//!                                                              ▲                   │
//!                          notes which pages came from changes ┤  compose ◄────────┤  into a file, before the VMM loads it
//!                          makes them anonymous at once ───────┴── inject ◄────────┘  into a VMM that has mapped its base
//! ```
//!
//! A diff is always the whole difference to the base, also of a machine that was itself restored with changes. Nothing
//! is recorded while a machine runs, and nothing in the VMM has to be asked: a diff can be taken again after a failed
//! attempt, or by a server that was restarted. The VMM may be in its guest's hands, so every size is bounded by the
//! [`Shape`](crate::Shape) that was given to it. Called by both drivers.

mod changes;
mod compose;
mod difference;
mod inherited;
mod inject;
mod mapping;
mod pages;
mod ranges;
#[cfg(test)]
mod testing;
mod working_set;

pub(crate) use compose::{Composed, compose};
pub(crate) use difference::difference;
pub(crate) use inherited::Inherited;
pub(crate) use inject::inject;
pub(crate) use mapping::{Mapping, Proc};
pub(crate) use working_set::WorkingSet;

/// Bytes of a page. x86-64 has no other base size.
const PAGE: u64 = 4096;

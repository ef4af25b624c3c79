//! Guest memory from the outside: which pages a VMM's guest has written since it was restored, and what becomes of them.
//!
//! Every driver maps a snapshot's RAM copy-on-write. The kernel therefore keeps the books that a diff snapshot needs:
//! a page of that mapping that the guest has written is anonymous, one that it has only read is still the file's.
//!
//! ```text
//! /proc/PID/maps ──► pieces of the RAM ──/proc/PID/pagemap──► runs of pages
//!                                          ├─ anonymous ──/proc/PID/mem──► write_dirty ──► diff ─┐
//!                                          └─ any present ──► WorkingSet ──► prefetch            │
//!                                           base ────────────────────────► compose_memory ◄──────┘ ──► memory
//! ```
//!
//! Nothing is recorded while a machine runs, and nothing in the VMM has to be asked: a diff can be taken again after a
//! failed attempt, or by a server that was restarted. The VMM may be in its guest's hands, so every size is bounded by
//! the [`Shape`](crate::Shape) that was given to it. Called by both drivers, and by `lifecycle` for
//! [`compose_memory`].

mod compose;
mod dirty;
mod mapping;
mod pages;
#[cfg(test)]
mod testing;
mod working_set;

pub use compose::compose_memory;
pub(crate) use dirty::write_dirty;
pub(crate) use mapping::Mapping;
pub(crate) use working_set::WorkingSet;

use crate::error::VmmError;

/// Bytes of a page. x86-64 has no other base size.
const PAGE: u64 = 4096;

/// Runs blocking work on a thread that is there for it. Work that nobody waits for any more still comes to its end.
async fn blocking<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> Result<T, VmmError> + Send + 'static,
) -> Result<T, VmmError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| VmmError::System { step, source: error.into() })?
}

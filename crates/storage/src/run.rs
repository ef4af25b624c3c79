//! Runs: contiguous pieces of a memory or a disk, as which both are passed between VMMs, archives and files.
//!
//! ```text
//! vmm (a memory's difference to its base) ─┐                          ┌─► vmm (changes to a base's memory)
//!                                          ├─ Runs ─► archive ─ Runs ─┤
//! disk (data extents) ─────────────────────┘                          └─► a new sparse disk
//! ```

use std::io;

/// The most bytes that a [`Run`] may have. It fits into one frame of an archive, and so bounds what a reader allocates.
pub const RUN_MAX: usize = 1 << 20;

/// A contiguous piece of a memory's or a disk's data, with its offset: at least one byte and at most [`RUN_MAX`]; of a
/// memory, whole 4 KiB pages.
#[derive(Clone, PartialEq, Eq)]
pub struct Run {
    /// Distance of the first byte from the start of the memory or disk.
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// The runs of one memory or disk, in ascending order and without overlaps. What is in no run is as in the base, or a
/// hole of the disk. They are read lazily, by blocking calls; an error ends the iteration.
pub type Runs = Box<dyn Iterator<Item = io::Result<Run>> + Send>;

impl Run {
    /// The offset of the first byte after the run; none if no file can be that long.
    pub fn end(&self) -> Option<u64> {
        // The kernel's off_t is signed. An offset beyond it would fail in every system call that is given it.
        self.offset.checked_add(self.bytes.len() as u64).filter(|end| i64::try_from(*end).is_ok())
    }
}

/// Shows no bytes: they are a sandbox's memory or files and do not belong in a log.
impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("offset", &self.offset).field("length", &self.bytes.len()).finish()
    }
}

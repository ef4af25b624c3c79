//! Pieces of a memory or a disk: the form in which changes travel between VMMs, archives and files.
//!
//! ```text
//! vmm (pages that differ) ─┐                        ┌─► vmm (pages laid over a base)
//!                          ├─ Runs ─► archive ─ Runs ┤
//! disk (data extents) ─────┘                        └─► a new sparse disk
//! ```

use std::io;

/// The most bytes that a [`Run`] may have: 1 MiB.
pub const RUN_MAX: usize = 1 << 20;

/// Bytes of a memory or disk at one place. At least one byte and at most [`RUN_MAX`]; of a memory: whole 4 KiB pages.
#[derive(Clone, PartialEq, Eq)]
pub struct Run {
    /// Where the bytes belong, in bytes from the start.
    pub offset: u64,
    /// What is there.
    pub bytes: Vec<u8>,
}

/// Read lazily, and blocking; ascending and not overlapping; an error ends it.
pub type Runs = Box<dyn Iterator<Item = io::Result<Run>> + Send>;

impl Run {
    /// The first byte after it; none if that lies beyond what a file offset can be.
    pub fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.bytes.len() as u64).filter(|end| i64::try_from(*end).is_ok())
    }
}

/// Without the bytes: they are a sandbox's, and many.
impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("offset", &self.offset).field("length", &self.bytes.len()).finish()
    }
}

//! Writes an archive into the store.
//!
//! ```text
//! begin: takes the pin ─► ArchiveWriter: writes the parts ─► seal ─► Sealed: the caller commits its row, drops the pin
//! ```
//!
//! The pin comes before the first byte, so that no sweep that runs meanwhile removes the archive before a row names it.

use super::error::StoreError;
use super::index::Pin;
use crate::archive::{ArchiveError, PartStats, Writer};
use crate::run::Runs;
use serde::Serialize;

/// An archive that is being written; dropped unsealed, it is removed. Everything here is blocking.
pub struct ArchiveWriter {
    writer: Writer,
    pin: Pin,
}

/// An archive that is on disk.
#[derive(Debug)]
#[must_use = "garbage collection may take the archive as soon as this is dropped, unless something names it"]
pub struct Sealed {
    /// Bytes that were given to the writer, over all parts.
    pub plain_bytes: u64,
    /// Bytes of the archive's files.
    pub stored_bytes: u64,
    /// To be kept until a row of the database that names the archive is committed.
    pub pin: Pin,
}

impl ArchiveWriter {
    pub(super) fn new(writer: Writer, pin: Pin) -> Self {
        Self { writer, pin }
    }

    /// Adds a part of plain bytes, at most 64 MiB.
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<PartStats, ArchiveError> {
        self.writer.bytes(name, bytes)
    }

    /// Adds a part of runs, which are read to their end on another thread. After an error no part can be added, and the
    /// archive cannot be sealed.
    pub fn runs(&mut self, name: &str, runs: Runs) -> Result<PartStats, ArchiveError> {
        self.writer.runs(name, runs)
    }

    /// Completes the archive: all of it is on disk when this returns, and nothing of it after an error. The header is
    /// not encrypted, so it must contain no secrets.
    pub fn seal<H: Serialize>(self, header: &H) -> Result<Sealed, StoreError> {
        let totals = self.writer.seal(header)?;
        // Known to the index only now, so that neither a sweep nor an upload meets an archive that is not complete.
        self.pin.sealed(totals.stored);
        Ok(Sealed { plain_bytes: totals.plain, stored_bytes: totals.stored, pin: self.pin })
    }
}

//! Runs as the plain bytes of frames: `offset (u64) ‖ length (u32) ‖ bytes`, as many as fit.

use super::error::ArchiveError;
use super::frame::{PLAIN_MAX, Place};
use crate::run::{RUN_MAX, Run, Runs};
use std::path::{Path, PathBuf};

/// Offset and length before a run's bytes.
const HEAD: usize = 12;

/// The plain bytes of one frame.
pub(super) struct Batch {
    pub place: Place,
    pub bytes: Vec<u8>,
    /// Bytes of its runs, without their heads.
    pub plain: u64,
}

impl Batch {
    fn add(&mut self, run: &Run) {
        self.bytes.extend_from_slice(&run.offset.to_le_bytes());
        self.bytes.extend_from_slice(&(run.bytes.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&run.bytes);
        self.plain += run.bytes.len() as u64;
    }
}

/// Gathers runs into batches. The last one says so, and there is always one; an error ends it.
pub(super) struct Batches {
    runs: Runs,
    order: Order,
    /// Read, and too long for the batch before.
    held: Option<Run>,
    index: u64,
    done: bool,
}

impl Batches {
    /// `path` is the part's, for the errors.
    pub fn new(runs: Runs, path: &Path) -> Self {
        Self { runs, order: Order::new(path), held: None, index: 0, done: false }
    }

    fn fill(&mut self) -> Result<Batch, ArchiveError> {
        let place = Place { index: self.index, last: false, offset: 0 };
        let mut batch = Batch { place, bytes: Vec::with_capacity(PLAIN_MAX), plain: 0 };
        if let Some(run) = self.held.take() {
            batch.add(&run);
        }
        for run in self.runs.by_ref() {
            let run = run.map_err(|source| ArchiveError::Source { path: self.order.path.clone(), source })?;
            self.order.check(&run)?;
            if batch.bytes.len() + HEAD + run.bytes.len() > PLAIN_MAX {
                self.held = Some(run);
                return Ok(batch);
            }
            batch.add(&run);
        }
        batch.place.last = true;
        Ok(batch)
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let batch = self.fill();
        self.index += 1;
        self.done = batch.as_ref().map_or(true, |batch| batch.place.last);
        Some(batch)
    }
}

/// Reads the runs of a frame; none if that is not what the bytes are.
pub(super) fn parse(mut bytes: &[u8]) -> Option<Vec<Run>> {
    let mut runs = Vec::new();
    while !bytes.is_empty() {
        let (offset, rest) = bytes.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (data, rest) = rest.split_at_checked(length)?;
        runs.push(Run { offset: u64::from_le_bytes(*offset), bytes: data.to_vec() });
        bytes = rest;
    }
    Some(runs)
}

/// Checks that runs are what they must be, one after the other.
pub(super) struct Order {
    path: PathBuf,
    /// Where the next one may begin.
    next: u64,
}

impl Order {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), next: 0 }
    }

    pub fn check(&mut self, run: &Run) -> Result<(), ArchiveError> {
        let (offset, length) = (run.offset, run.bytes.len());
        match run.end() {
            Some(end) if offset >= self.next && (1..=RUN_MAX).contains(&length) => {
                self.next = end;
                Ok(())
            }
            _ => Err(ArchiveError::Run { path: self.path.clone(), offset, length }),
        }
    }
}

//! The encoding of runs in frames: `offset (u64) ‖ length (u32) ‖ bytes`, as many runs as fit.

use super::error::ArchiveError;
use super::frame::{FramePosition, PLAIN_MAX};
use crate::run::{RUN_MAX, Run, Runs};
use std::path::{Path, PathBuf};

/// Bytes of the offset and the length before a run's data.
const HEAD: usize = 12;

/// The plain bytes of one frame; `plain` counts the data of its runs, without their heads.
pub(super) struct Batch {
    pub position: FramePosition,
    pub bytes: Vec<u8>,
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

/// Gathers runs into batches, of which the last is marked. There is always one, also for no runs at all, because a part
/// needs a last frame. An error ends the iteration.
pub(super) struct Batches {
    runs: Runs,
    order: RunOrder,
    /// A run that was read from the source and did not fit into the batch before.
    held: Option<Run>,
    index: u64,
    done: bool,
}

impl Batches {
    /// `path` is the part's, for the errors.
    pub fn new(runs: Runs, path: &Path) -> Self {
        Self { runs, order: RunOrder::new(path), held: None, index: 0, done: false }
    }

    fn fill(&mut self) -> Result<Batch, ArchiveError> {
        let position = FramePosition { index: self.index, last: false, offset: 0 };
        let mut batch = Batch { position, bytes: Vec::with_capacity(PLAIN_MAX), plain: 0 };
        if let Some(run) = self.held.take() {
            batch.add(&run);
        }
        for run in self.runs.by_ref() {
            let run = run.map_err(|source| ArchiveError::Source { path: self.order.path.clone(), source })?;
            // A reader refuses runs that are out of order. Then it would be too late, because the machine, which could
            // have been stored again, is gone.
            self.order.check(&run)?;
            if batch.bytes.len() + HEAD + run.bytes.len() > PLAIN_MAX {
                self.held = Some(run);
                return Ok(batch);
            }
            batch.add(&run);
        }
        batch.position.last = true;
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
        self.done = batch.as_ref().map_or(true, |batch| batch.position.last);
        Some(batch)
    }
}

/// Reads the runs of a frame; none if the bytes are not encoded runs.
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

/// Checks that each run begins where the one before it has ended or later (at `next`), and is neither empty nor too
/// long.
pub(super) struct RunOrder {
    path: PathBuf,
    next: u64,
}

impl RunOrder {
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

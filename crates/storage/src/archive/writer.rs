//! Writes an archive: the parts, then the manifest, each synced; then the directory gets its final name.

use super::error::ArchiveError;
use super::files::{check_name, create, sync_dir};
use super::frame::{FrameKey, FramePosition};
use super::manifest::{BYTES_MAX, Kind, MANIFEST, Manifest, Part, PartStats, Stamp};
use super::ordered::Ordered;
use super::runs::Batches;
use crate::key::{SALT_LENGTH, ServerKey, random};
use crate::run::{RUN_MAX, Runs};
use leapbox_errors::FileError;
use leapbox_ids::ArchiveId;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// An archive that is being written in the directory `.<id>`; dropped unsealed, it is removed.
pub(crate) struct Writer {
    id: String,
    key: ServerKey,
    salt: [u8; SALT_LENGTH],
    stamp: Option<Stamp>,
    /// The directory that is written, and the name that it gets in the end.
    draft: PathBuf,
    target: PathBuf,
    parts: BTreeMap<String, Part>,
    /// Set while a part is written, and so for good if that fails.
    broken: bool,
}

/// The sums of all parts of an archive, in bytes; `stored` includes the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Totals {
    pub plain: u64,
    pub stored: u64,
}

impl Writer {
    /// Begins the archive `id` in the directory `dir`. If a killed server has left `.<id>` there, `store` has removed
    /// it at its start.
    pub fn begin(dir: &Path, id: &ArchiveId, key: &ServerKey, stamp: Option<Stamp>) -> Result<Self, ArchiveError> {
        let id = id.to_string();
        let (draft, target) = (dir.join(format!(".{id}")), dir.join(&id));
        let no_salt = |source| ArchiveError::Key { path: draft.clone(), source };
        let salt = random().map_err(no_salt)?;
        // Only to refuse it before the work and not after; the rename in `publish` is what never replaces an archive.
        if std::fs::symlink_metadata(&target).is_ok() {
            return Err(ArchiveError::Exists { path: target });
        }
        match DirBuilder::new().mode(0o700).create(&draft) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(ArchiveError::Exists { path: draft }),
            Err(e) => return Err(FileError::of("creating", &draft)(e).into()),
        }
        Ok(Self { id, key: key.clone(), salt, stamp, draft, target, parts: BTreeMap::new(), broken: false })
    }

    /// Adds a part of plain bytes.
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<PartStats, ArchiveError> {
        if bytes.len() as u64 > BYTES_MAX {
            return Err(ArchiveError::TooLong { path: self.draft.join(name), length: bytes.len() as u64 });
        }
        let mut part = self.begin_part(name)?;
        // At least one frame, also for no bytes: a part without a last frame is indistinguishable from one cut off.
        let count = bytes.len().div_ceil(RUN_MAX).max(1);
        for index in 0..count {
            let piece = &bytes[index * RUN_MAX..bytes.len().min((index + 1) * RUN_MAX)];
            let position = FramePosition { index: index as u64, last: index + 1 == count, offset: 0 };
            part.write(&part.key.seal(position, piece)?, piece.len() as u64)?;
        }
        self.end_part(name, Kind::Bytes, part)
    }

    /// Adds a part of runs, which are read to their end.
    pub fn runs(&mut self, name: &str, runs: Runs) -> Result<PartStats, ArchiveError> {
        let mut part = self.begin_part(name)?;
        let key = part.key.clone();
        let seal = move |batch: Result<super::runs::Batch, ArchiveError>| {
            let batch = batch?;
            Ok::<_, ArchiveError>((key.seal(batch.position, &batch.bytes)?, batch.plain))
        };
        let batches = Batches::new(runs, &part.path);
        for sealed in Ordered::start(batches, seal).map_err(FileError::of("starting threads for", &part.path))? {
            let (frame, plain): (Vec<u8>, u64) = sealed?;
            part.write(&frame, plain)?;
        }
        self.end_part(name, Kind::Runs, part)
    }

    /// Completes the archive: all of it is on disk, under its name, when this returns.
    pub fn seal<H: Serialize>(self, header: &H) -> Result<Totals, ArchiveError> {
        self.check_sound()?;
        let path = self.draft.join(MANIFEST);
        let header =
            serde_json::to_value(header).map_err(|source| ArchiveError::Encode { path: path.clone(), source })?;
        let (id, salt, parts) = (self.id.clone(), hex::encode(&self.salt), self.parts.clone());
        let text = Manifest { id, salt, header, parts, stamp: self.stamp.clone() }.encode(&self.key, &path)?;
        let mut file = create(&path)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(FileError::of("writing", &path))?;
        publish(&self.draft, &self.target)?;
        let stats = || self.parts.values().map(|part| part.stats);
        Ok(Totals {
            plain: stats().map(|part| part.plain_bytes).sum(),
            stored: stats().map(|part| part.stored_bytes).sum::<u64>() + text.len() as u64,
        })
    }

    fn check_sound(&self) -> Result<(), ArchiveError> {
        if self.broken { Err(ArchiveError::Unfinished { path: self.draft.clone() }) } else { Ok(()) }
    }

    fn begin_part(&mut self, name: &str) -> Result<PartWriter, ArchiveError> {
        check_name(name)?;
        self.check_sound()?;
        let path = self.draft.join(name);
        let file = create(&path)?;
        // Until `end_part`: an archive with half a part must not be sealed, even if the caller ignores the error.
        self.broken = true;
        let key = FrameKey::new(&self.key, &self.id, name, &self.salt, &path)?;
        Ok(PartWriter { path, file, key, stats: PartStats { plain_bytes: 0, stored_bytes: 0, frames: 0 } })
    }

    fn end_part(&mut self, name: &str, kind: Kind, part: PartWriter) -> Result<PartStats, ArchiveError> {
        part.file.sync_all().map_err(FileError::of("writing to disk", &part.path))?;
        self.broken = false;
        self.parts.insert(name.to_owned(), Part { kind, stats: part.stats });
        Ok(part.stats)
    }
}

/// Gives the finished directory `draft` its final name, durably. After an error nothing is left under that name.
pub(crate) fn publish(draft: &Path, target: &Path) -> Result<(), ArchiveError> {
    // Before the rename: after a power failure the final name must not lead to a directory that lacks files.
    sync_dir(draft)?;
    // rename(2) does not replace a directory that is not empty, so that an archive is never replaced.
    std::fs::rename(draft, target).map_err(FileError::of("moving into place", target))?;
    let synced = sync_dir(target.parent().unwrap_or(target));
    if synced.is_err() {
        // Best effort: the caller gets the error and will not name this archive, so that garbage collection finds it.
        let _ = std::fs::remove_dir_all(target);
    }
    Ok(synced?)
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Fails after `seal`, which has renamed it. What cannot be removed now, the next start of the server removes.
        let _ = std::fs::remove_dir_all(&self.draft);
    }
}

struct PartWriter {
    path: PathBuf,
    file: File,
    key: FrameKey,
    stats: PartStats,
}

impl PartWriter {
    fn write(&mut self, frame: &[u8], plain: u64) -> Result<(), ArchiveError> {
        self.file.write_all(frame).map_err(FileError::of("writing", &self.path))?;
        self.stats.frames += 1;
        self.stats.stored_bytes += frame.len() as u64;
        self.stats.plain_bytes += plain;
        Ok(())
    }
}

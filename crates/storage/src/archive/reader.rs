//! Reads an archive: the manifest when it is opened, frames when they are needed.

use super::error::ArchiveError;
use super::files::open;
use super::frame::{FrameKey, FramePosition, PREFIX, SEALED_MAX, SEALED_MIN};
use super::manifest::{BYTES_MAX, Kind, MANIFEST, Manifest, Part, PartStats, Stamp, read_manifest};
use super::ordered::Ordered;
use super::runs::{RunOrder, parse};
use crate::key::ServerKey;
use crate::run::{Run, Runs};
use leapbox_errors::FileError;
use leapbox_ids::ArchiveId;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::vec;

/// An archive whose manifest is authentic. Its parts' files are open.
pub struct Archive {
    id: ArchiveId,
    dir: PathBuf,
    key: ServerKey,
    manifest: Manifest,
    salt: Vec<u8>,
    files: BTreeMap<String, Arc<File>>,
    /// The manifest as it is stored, for uploads.
    text: Vec<u8>,
}

impl Archive {
    /// Opens the archive `id` in `dir`, which is its own directory, and checks the lengths of its parts. Their frames
    /// are checked when they are read.
    pub(crate) fn open(dir: &Path, id: &ArchiveId, key: &ServerKey) -> Result<Self, ArchiveError> {
        let path = dir.join(MANIFEST);
        let text = read_manifest(dir)?;
        let manifest = Manifest::decode(&text, &id.to_string(), key, &path)?;
        let salt = manifest.salt(&path)?;
        let mut files = BTreeMap::new();
        // All files are opened now, because an eviction or a removal may unlink them while a wake still reads.
        for (name, part) in &manifest.parts {
            let path = dir.join(name);
            let file = open(&path)?;
            let found = file.metadata().map_err(FileError::of("reading the size of", &path))?.len();
            // A truncated part is found here, before a VMM has been started for it.
            let expected = part.stats.stored_bytes;
            if found != expected {
                return Err(ArchiveError::Length { path, found, expected });
            }
            files.insert(name.clone(), Arc::new(file));
        }
        Ok(Self { id: id.clone(), dir: dir.to_path_buf(), key: key.clone(), manifest, salt, files, text })
    }

    pub fn id(&self) -> &ArchiveId {
        &self.id
    }

    /// Returns the header that the owner of the archive gave to the writer; it must be of the same type.
    pub fn header<H: DeserializeOwned>(&self) -> Result<H, ArchiveError> {
        let wrong = |source| ArchiveError::Header { path: self.dir.join(MANIFEST), source };
        H::deserialize(&self.manifest.header).map_err(wrong)
    }

    /// Where the archive stands in the history of its installation; none if it was written without a stamp.
    pub fn stamp(&self) -> Option<&Stamp> {
        self.manifest.stamp.as_ref()
    }

    pub fn has(&self, name: &str) -> bool {
        self.manifest.parts.contains_key(name)
    }

    #[cfg(test)]
    pub(crate) fn part(&self, name: &str) -> Option<PartStats> {
        self.manifest.parts.get(name).map(|part| part.stats)
    }

    /// Bytes that were given to the writer, over all parts.
    pub fn plain_bytes(&self) -> u64 {
        self.manifest.parts.values().map(|part| part.stats.plain_bytes).sum()
    }

    /// Bytes of the archive on a disk or in a bucket, the manifest included.
    pub fn stored_bytes(&self) -> u64 {
        self.text.len() as u64 + self.manifest.parts.values().map(|part| part.stats.stored_bytes).sum::<u64>()
    }

    /// The parts' files as they are stored, with their lengths in bytes.
    pub(crate) fn stored_parts(&self) -> impl Iterator<Item = (&str, &Arc<File>, u64)> {
        let length = |name: &String| self.manifest.parts.get(name).map_or(0, |part| part.stats.stored_bytes);
        self.files.iter().map(move |(name, file)| (name.as_str(), file, length(name)))
    }

    pub(crate) fn manifest_text(&self) -> &[u8] {
        &self.text
    }

    /// Reads the whole of a part of plain bytes, at most 64 MiB. Blocking.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let frames = self.frames(name, Kind::Bytes)?;
        let (key, expected) = (frames.key.clone(), frames.part.plain_bytes);
        if expected > BYTES_MAX {
            return Err(ArchiveError::TooLong { path: key.path().to_path_buf(), length: expected });
        }
        let mut bytes = Vec::new();
        for frame in frames {
            let (position, frame) = frame?;
            bytes.extend_from_slice(&key.open(position, frame)?);
        }
        if bytes.len() as u64 == expected {
            return Ok(bytes);
        }
        Err(ArchiveError::Total { path: key.path().to_path_buf(), found: bytes.len() as u64, expected })
    }

    /// Returns the runs of a part, which a few threads decrypt ahead of the caller. They are complete only if the
    /// iterator ends without an error; the error is an [`ArchiveError`] inside of an `io::Error`. Blocking.
    pub fn runs(&self, name: &str) -> Result<Runs, ArchiveError> {
        let frames = self.frames(name, Kind::Runs)?;
        let path = frames.key.path().to_path_buf();
        let (key, expected) = (frames.key.clone(), frames.part.plain_bytes);
        let work = move |frame: Result<(FramePosition, Vec<u8>), ArchiveError>| {
            let (position, frame) = frame?;
            parse(&key.open(position, frame)?).ok_or_else(|| key.damaged(position))
        };
        let batches: Batches = if frames.part.frames == 1 {
            // Starting threads for a single frame would take longer than opening it.
            Box::new(frames.map(work))
        } else {
            Box::new(Ordered::start(frames, work).map_err(FileError::of("starting threads for", &path))?)
        };
        let order = RunOrder::new(&path);
        Ok(Box::new(RunReader { batches, batch: Vec::new().into_iter(), order, path, found: 0, expected, done: false }))
    }

    /// Reads and authenticates every frame; the first damage is the error. Blocking. Called for what was downloaded.
    pub fn verify(&self) -> Result<(), ArchiveError> {
        for (name, part) in &self.manifest.parts {
            let frames = self.frames(name, part.kind)?;
            let key = frames.key.clone();
            let path = key.path().to_path_buf();
            let open = move |frame: Result<(FramePosition, Vec<u8>), ArchiveError>| {
                let (position, frame) = frame?;
                key.open(position, frame)
            };
            for plain in Ordered::start(frames, open).map_err(FileError::of("starting threads for", &path))? {
                plain?;
            }
        }
        Ok(())
    }

    fn frames(&self, name: &str, kind: Kind) -> Result<Frames, ArchiveError> {
        let path = self.dir.join(name);
        let (Some(Part { kind: found, stats }), Some(file)) = (self.manifest.parts.get(name), self.files.get(name))
        else {
            return Err(ArchiveError::NoPart { path });
        };
        if *found != kind {
            return Err(ArchiveError::NoPart { path });
        }
        let key = FrameKey::new(&self.key, &self.manifest.id, name, &self.salt, &path)?;
        Ok(Frames { file: Arc::clone(file), key, part: *stats, index: 0, offset: 0, done: false })
    }
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").field("dir", &self.dir).field("parts", &self.manifest.parts).finish_non_exhaustive()
    }
}

type Batches = Box<dyn Iterator<Item = Result<Vec<Run>, ArchiveError>> + Send>;

/// Iterates over the frames of a part as they are in its file, not yet authenticated. An error ends the iteration.
struct Frames {
    file: Arc<File>,
    key: FrameKey,
    part: PartStats,
    index: u64,
    offset: u64,
    done: bool,
}

impl Frames {
    fn read(&mut self) -> Result<(FramePosition, Vec<u8>), ArchiveError> {
        let last = self.index + 1 == self.part.frames;
        let position = FramePosition { index: self.index, last, offset: self.offset };
        let mut prefix = [0; PREFIX];
        self.read_exact(&mut prefix, position.offset, position)?;
        let length = u32::from_le_bytes(prefix) as usize;
        // The number of frames and the part's length come from the authenticated manifest, so that a forged prefix can
        // neither lead beyond the file nor leave a rest of it unread.
        let end = position.offset + (PREFIX + length) as u64;
        let fits = if last { end == self.part.stored_bytes } else { end < self.part.stored_bytes };
        if !fits || !(SEALED_MIN..=SEALED_MAX).contains(&length) {
            return Err(self.key.damaged(position));
        }
        let mut frame = vec![0; length];
        self.read_exact(&mut frame, position.offset + PREFIX as u64, position)?;
        self.index += 1;
        self.offset = end;
        Ok((position, frame))
    }

    fn read_exact(&self, bytes: &mut [u8], offset: u64, position: FramePosition) -> Result<(), ArchiveError> {
        // pread(2), because several readers of one archive share its open files.
        self.file.read_exact_at(bytes, offset).map_err(|e| match e.kind() {
            // Shorter than it was when the archive was opened.
            io::ErrorKind::UnexpectedEof => self.key.damaged(position),
            _ => FileError::of("reading", self.key.path())(e).into(),
        })
    }
}

impl Iterator for Frames {
    type Item = Result<(FramePosition, Vec<u8>), ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done || self.index == self.part.frames {
            return None;
        }
        let frame = self.read();
        self.done = frame.is_err();
        Some(frame)
    }
}

/// Iterates over the runs of a part and counts their bytes: `found` so far, `expected` by the manifest.
struct RunReader {
    batches: Batches,
    batch: vec::IntoIter<Run>,
    order: RunOrder,
    path: PathBuf,
    found: u64,
    expected: u64,
    done: bool,
}

impl RunReader {
    fn read(&mut self) -> Result<Option<Run>, ArchiveError> {
        loop {
            if let Some(run) = self.batch.next() {
                // Also of authentic frames: drivers write these bytes at these offsets of a guest's memory and rely on
                // ascending runs.
                self.order.check(&run)?;
                self.found += run.bytes.len() as u64;
                return Ok(Some(run));
            }
            match self.batches.next() {
                Some(batch) => self.batch = batch?.into_iter(),
                None if self.found == self.expected => return Ok(None),
                None => {
                    let (path, found, expected) = (self.path.clone(), self.found, self.expected);
                    return Err(ArchiveError::Total { path, found, expected });
                }
            }
        }
    }
}

impl Iterator for RunReader {
    type Item = io::Result<Run>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let run = self.read();
        self.done = !matches!(run, Ok(Some(_)));
        run.map_err(io::Error::from).transpose()
    }
}

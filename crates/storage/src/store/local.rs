//! The folder of archives on this host.
//!
//! ```text
//! <folder>/.lock          held by the one server that uses it
//!          .<id>, .gone-<id>-<n>, .fetch-<id>   unfinished: removed at the next start
//!          <id>/          an archive
//!          <id>/uploaded.to    says which bucket has it, once one has
//! ```

use super::error::StoreError;
use crate::archive::check_name;
use crate::private_dir;
use leapbox_errors::FileError;
use std::fs::{DirEntry, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// No part has this name: it has a dot.
const MARKER: &str = "uploaded.to";
const LOCK: &str = ".lock";
/// How long a server that is just ending may keep the folder.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// An archive that was found.
pub(super) struct Found {
    pub id: String,
    pub bytes: u64,
    /// The bucket that has it.
    pub uploaded_to: Option<String>,
    /// When it was written or fetched.
    pub since: SystemTime,
}

/// Makes the folder if it is missing, and takes it for this process alone, until the result is dropped.
pub(super) fn lock(dir: &Path) -> Result<File, StoreError> {
    private_dir(dir)?;
    let path = dir.join(LOCK);
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(&path)
        .map_err(FileError::of("opening", &path))?;
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOCK_WAIT / 100),
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path: dir.to_path_buf() }),
            Err(TryLockError::Error(source)) => return Err(FileError::of("locking", &path)(source).into()),
        }
    }
}

/// Removes what a server that was killed left unfinished. Only for the holder of the lock.
pub(super) fn clear_unfinished(dir: &Path) -> Result<(), FileError> {
    for entry in entries(dir)? {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") && name != LOCK {
            remove_all(&entry.path())?;
        }
    }
    Ok(())
}

/// All archives, the longest unused first.
pub(super) fn scan(dir: &Path) -> Result<Vec<Found>, FileError> {
    let mut found = Vec::new();
    for entry in entries(dir)? {
        let Some(id) = entry.file_name().to_str().filter(|name| check_name(name).is_ok()).map(str::to_owned) else {
            continue;
        };
        match look_at(&entry, id) {
            Ok(archive) => found.extend(archive),
            // Removed just now, when this is not the server that holds the folder.
            Err(error) if error.source.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_by_key(|archive| archive.since);
    Ok(found)
}

fn look_at(entry: &DirEntry, id: String) -> Result<Option<Found>, FileError> {
    let path = entry.path();
    let since = match entry.metadata() {
        Ok(meta) if meta.is_dir() => meta.modified(),
        Ok(_) => return Ok(None),
        Err(e) => Err(e),
    };
    let since = since.map_err(FileError::of("looking at", &path))?;
    let mut bytes = 0;
    for file in entries(&path)? {
        if file.file_name() != MARKER {
            bytes += file.metadata().map_err(FileError::of("looking at", file.path()))?.len();
        }
    }
    let uploaded_to = match std::fs::read_to_string(path.join(MARKER)) {
        Ok(bucket) => Some(bucket),
        // After a power loss anything may be in it: uploaded again, it is right again.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => None,
        Err(e) => return Err(FileError::of("reading", path.join(MARKER))(e)),
    };
    Ok(Some(Found { id, bytes, uploaded_to, since }))
}

/// Notes that `bucket` has the archive in `dir`. Need not outlast a power loss: it would be uploaded again.
pub(super) fn mark_uploaded(dir: &Path, bucket: &str) -> Result<(), FileError> {
    let path = dir.join(MARKER);
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
    file.open(&path).and_then(|mut file| file.write_all(bucket.as_bytes())).map_err(FileError::of("writing", &path))
}

/// Takes that note back.
pub(super) fn unmark_uploaded(dir: &Path) -> Result<(), FileError> {
    let path = dir.join(MARKER);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(FileError::of("removing", &path)(e)),
        _ => Ok(()),
    }
}

/// Removes a folder or file, if it is there.
pub(super) fn remove_all(path: &Path) -> Result<(), FileError> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(FileError::of("removing", path)(e)),
        _ => Ok(()),
    }
}

fn entries(dir: &Path) -> Result<Vec<DirEntry>, FileError> {
    std::fs::read_dir(dir).and_then(Iterator::collect).map_err(FileError::of("listing", dir))
}

//! The directory of archives on this host.
//!
//! ```text
//! <dir>/.lock               locked by the one server that uses the directory
//!       .<id>               being written      ┐
//!       .fetch-<id>         being downloaded   ├ removed at the next start
//!       .gone-<id>-<n>      being removed      ┘
//!       <id>/               an archive
//!       <id>/uploaded.to    the identity of the bucket that has a copy, once one has
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

/// The file that says which bucket has a copy. No part has this name, because it contains a dot.
const MARKER: &str = "uploaded.to";
const LOCK: &str = ".lock";
// A server that is restarted may still be ending, with an upload that has 3 seconds to abort itself. One that does not
// end by then is another server, and starting beside it would destroy its archives.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// An archive that was found at the start of the server.
pub(super) struct Found {
    pub id: String,
    pub bytes: u64,
    /// The identity of the bucket that has a copy.
    pub uploaded_to: Option<String>,
    /// When the archive was written or fetched.
    pub since: SystemTime,
}

/// Creates the directory if it is missing, and locks it for this process until the result is dropped.
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
    // flock(2): the kernel releases the lock however the process ends, so that no stale one is left by a kill.
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

/// Removes what a killed server left unfinished. Only the holder of the lock may call it: to others, what a running
/// server is just writing looks the same.
pub(super) fn clear_unfinished(dir: &Path) -> Result<(), FileError> {
    for entry in entries(dir)? {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") && name != LOCK {
            remove_all(&entry.path())?;
        }
    }
    Ok(())
}

/// Lists the names of all archives, in no order. The directory need not be locked.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, FileError> {
    let mut names = Vec::new();
    for entry in entries(dir)? {
        let kind = entry.file_type().map_err(FileError::of("looking at", entry.path()))?;
        names.extend(archive_name(&entry).filter(|_| kind.is_dir()));
    }
    Ok(names)
}

/// The entry's name, if an archive can have it.
fn archive_name(entry: &DirEntry) -> Option<String> {
    entry.file_name().to_str().filter(|name| check_name(name).is_ok()).map(str::to_owned)
}

/// Lists all archives, the oldest first, which makes it the first to be evicted.
pub(super) fn scan(dir: &Path) -> Result<Vec<Found>, FileError> {
    let mut found = Vec::new();
    for entry in entries(dir)? {
        let Some(id) = archive_name(&entry) else {
            continue;
        };
        match look_at(&entry, id) {
            Ok(archive) => found.extend(archive),
            // Removed by the running server, if this is a process that does not hold the lock.
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
        // The file is not synced and may hold anything after a power failure. Then the archive is uploaded again.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => None,
        Err(e) => return Err(FileError::of("reading", path.join(MARKER))(e)),
    };
    Ok(Some(Found { id, bytes, uploaded_to, since }))
}

/// Records that `bucket` has a copy of the archive in `dir`.
pub(super) fn mark_uploaded(dir: &Path, bucket: &str) -> Result<(), FileError> {
    let path = dir.join(MARKER);
    // Not synced: what is lost in a power failure costs one more upload, and nothing else.
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
    file.open(&path).and_then(|mut file| file.write_all(bucket.as_bytes())).map_err(FileError::of("writing", &path))
}

/// Removes the record of [`mark_uploaded`].
pub(super) fn unmark_uploaded(dir: &Path) -> Result<(), FileError> {
    let path = dir.join(MARKER);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(FileError::of("removing", &path)(e)),
        _ => Ok(()),
    }
}

/// Removes a directory or file, if it exists.
pub(super) fn remove_all(path: &Path) -> Result<(), FileError> {
    // A link is a file here: it is removed, and not what it leads to.
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

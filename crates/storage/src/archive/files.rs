//! The files of an archive: created for this process's user alone, opened without following a link.

use super::error::ArchiveError;
use leapbox_errors::FileError;
use nix::errno::Errno;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

// The longest id (`image-` and 64 digits) fits. With the store's own prefixes and suffixes (`.gone-…-<n>`) a name stays
// below the 255 bytes that Linux's file systems allow.
const NAME_MAX: usize = 128;

/// Checks that `name` can be an archive's id or the name of a part, in bytes: both become names of files and of
/// objects.
pub(crate) fn check_name(name: &str) -> Result<(), ArchiveError> {
    // No slash and no leading dot, so that no name leads out of its directory. No dot at all, because the store's own
    // files beside archives and parts have one.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(plain) {
        return Ok(());
    }
    Err(ArchiveError::Name { name: name.to_owned() })
}

/// Creates a new file for writing, with mode 0600.
pub(super) fn create(path: &Path) -> Result<File, ArchiveError> {
    match File::options().write(true).create_new(true).mode(0o600).custom_flags(O_NOFOLLOW).open(path) {
        Ok(file) => Ok(file),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(ArchiveError::Exists { path: path.to_path_buf() }),
        Err(e) => Err(FileError::of("creating", path)(e).into()),
    }
}

/// Opens a regular file for reading.
pub(super) fn open(path: &Path) -> Result<File, ArchiveError> {
    // A planted link must not be followed, and opening a planted pipe without O_NONBLOCK would wait for a writer
    // forever. For regular files the flag has no effect.
    let file = match File::options().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(ArchiveError::Missing { path: path.to_path_buf() }),
        // open(2) answers so when O_NOFOLLOW meets a link.
        Err(e) if e.raw_os_error() == Some(Errno::ELOOP as i32) => {
            return Err(ArchiveError::NotAFile { path: path.to_path_buf() });
        }
        Err(e) => return Err(FileError::of("opening", path)(e).into()),
    };
    if file.metadata().map_err(FileError::of("looking at", path))?.is_file() {
        return Ok(file);
    }
    Err(ArchiveError::NotAFile { path: path.to_path_buf() })
}

/// Writes a directory's entries to disk, without which a file or rename in it may be lost in a power failure.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), FileError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(FileError::of("writing to disk", dir))
}

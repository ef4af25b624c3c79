//! The files of an archive: made for this process's user alone, opened without following a link.

use super::error::ArchiveError;
use leapbox_errors::FileError;
use nix::errno::Errno;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The longest id or name of a part, in bytes.
const NAME_MAX: usize = 128;

/// Names of parts become names of files and of objects, as ids of archives do: one plain segment, and never one of the
/// store's own names, which have a dot in them.
pub(crate) fn check_name(name: &str) -> Result<(), ArchiveError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(plain) {
        return Ok(());
    }
    Err(ArchiveError::Name { name: name.to_owned() })
}

/// A new file for writing (0600).
pub(super) fn create(path: &Path) -> Result<File, ArchiveError> {
    match File::options().write(true).create_new(true).mode(0o600).custom_flags(O_NOFOLLOW).open(path) {
        Ok(file) => Ok(file),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(ArchiveError::Exists { path: path.to_path_buf() }),
        Err(e) => Err(FileError::of("creating", path)(e).into()),
    }
}

/// Opens a regular file for reading: no link is followed, and no pipe is waited for.
pub(super) fn open(path: &Path) -> Result<File, ArchiveError> {
    let file = match File::options().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(ArchiveError::Missing { path: path.to_path_buf() }),
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

/// Puts a folder's entries on disk.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), FileError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(FileError::of("writing to disk", dir))
}

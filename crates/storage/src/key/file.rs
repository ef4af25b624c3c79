//! The key's file: checked before it is read, and created so that it is either whole or does not exist.

use super::{KEY_LENGTH, KeyError, random};
use leapbox_errors::FileError;
use nix::errno::Errno;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::unistd::Uid;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Reads the key from `path`; none if there is no such file.
pub(super) fn load(path: &Path) -> Result<Option<[u8; KEY_LENGTH]>, KeyError> {
    // A planted link is not followed, and a planted pipe is not waited for. All checks are of the open file, so that it
    // cannot be exchanged between a check and the reading.
    let mut file = match File::options().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) if e.raw_os_error() == Some(Errno::ELOOP as i32) => {
            return Err(KeyError::NotAFile { path: path.to_path_buf() });
        }
        Err(e) => return Err(FileError::of("opening", path)(e).into()),
    };
    let found = file.metadata().map_err(FileError::of("looking at", path))?;
    if !found.is_file() {
        return Err(KeyError::NotAFile { path: path.to_path_buf() });
    }
    if found.uid() != Uid::effective().as_raw() {
        return Err(KeyError::Owner { path: path.to_path_buf(), owner: found.uid() });
    }
    if found.mode() & 0o077 != 0 {
        return Err(KeyError::Mode { path: path.to_path_buf(), mode: found.mode() & 0o7777 });
    }
    if found.len() != KEY_LENGTH as u64 {
        return Err(KeyError::Length { path: path.to_path_buf(), found: found.len() });
    }
    let mut bytes = [0; KEY_LENGTH];
    file.read_exact(&mut bytes).map_err(FileError::of("reading", path))?;
    Ok(Some(bytes))
}

/// Creates a new key in `path` and returns it. If another process has just done so, its key is returned.
pub(super) fn create(path: &Path) -> Result<[u8; KEY_LENGTH], KeyError> {
    let bytes: [u8; KEY_LENGTH] = random()?;
    // The file has a name of its own until it is whole and on disk. It gets its final name by link(2), which unlike
    // rename(2) never replaces a key: what was sealed with that one could not be opened any more.
    let unfinished = path.with_extension(format!("new-{}", hex::encode(random::<8>()?)));
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(FileError::of("creating", &unfinished))?;
    let written = file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(FileError::of("writing", &unfinished));
    let linked = written.and_then(|()| match std::fs::hard_link(&unfinished, path) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(FileError::of("creating", path)(e)),
        _ => Ok(()),
    });
    std::fs::remove_file(&unfinished).map_err(FileError::of("removing", &unfinished))?;
    linked?;
    // The entry must be on disk, too, before anything is sealed with the key.
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|dir| dir.sync_all()).map_err(FileError::of("writing to disk", folder))?;
    // Read again, because the link may have lost against another process's.
    load(path)?.ok_or_else(|| FileError::of("opening", path)(ErrorKind::NotFound).into())
}

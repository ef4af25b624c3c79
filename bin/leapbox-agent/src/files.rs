//! Does file operations with the rights of the image's user. Called by `connection`.
//!
//! Paths are used as they are given, `~` included; relative ones start at the image's working directory. No path is
//! checked by the agent: because the user's own rights decide, links and races inside the guest's tree lead nowhere
//! the user could not go by itself.

mod glob;
mod info;
mod list;
mod read;
mod tree;
mod write;

pub(crate) use list::list;
pub(crate) use read::read;
pub(crate) use tree::{delete, exists, mkdir};
pub(crate) use write::write;

use crate::fault;
use crate::guest::Guest;
use leapbox_guest_protocol::{FileInfo, GuestFault};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Mode bits a caller may set: permissions, setuid, setgid, sticky.
const MODE_BITS: u32 = 0o7777;

/// Describes a path, without following a symbolic link at its end.
pub(crate) fn stat(guest: &Guest, path: &str) -> Result<FileInfo, GuestFault> {
    let path = resolve(guest, path)?;
    as_user(guest, || {
        let metadata = fs::symlink_metadata(&path).map_err(|error| at(&path, &error))?;
        Ok(info::describe(&path, &metadata, &crate::names::Names::read()))
    })
}

/// Runs an operation as the image's user.
fn as_user<R>(guest: &Guest, work: impl FnOnce() -> Result<R, GuestFault>) -> Result<R, GuestFault> {
    guest.user.run(work).map_err(|error| fault::from_io("becoming the image's user", &error))?
}

/// Makes a path absolute and drops `.` and doubled slashes.
fn resolve(guest: &Guest, path: &str) -> Result<PathBuf, GuestFault> {
    if path.is_empty() {
        return Err(fault::invalid("the path is empty"));
    }
    if path.contains('\0') {
        return Err(fault::invalid("a path cannot contain a NUL byte"));
    }
    // `..` stays: behind a symbolic link it leads elsewhere than to the name before it, which only the kernel knows.
    Ok(Path::new(&guest.image.workdir).join(path).components().collect())
}

/// Makes the fault for a failed system call on a path.
fn at(path: &Path, error: &std::io::Error) -> GuestFault {
    fault::from_io(path.display(), error)
}

/// Opens a regular file, and refuses anything else.
fn open_regular(path: &Path, options: &mut OpenOptions) -> Result<(File, fs::Metadata), GuestFault> {
    // Opening a FIFO would block until it has another end, and a terminal could become the agent's controlling one.
    let options = options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path).map_err(|error| at(path, &error))?;
    let metadata = file.metadata().map_err(|error| at(path, &error))?;
    if metadata.is_dir() {
        return Err(at(path, &std::io::Error::from_raw_os_error(libc::EISDIR)));
    }
    if !metadata.is_file() {
        return Err(fault::invalid(format!("{}: is not a regular file", path.display())));
    }
    Ok((file, metadata))
}

/// Refuses a number with bits other than the twelve that chmod(2) takes.
fn check_mode(permissions: Option<u32>) -> Result<Option<u32>, GuestFault> {
    match permissions {
        Some(mode) if mode & !MODE_BITS != 0 => Err(fault::invalid(format!("{mode:o} is not a set of permissions"))),
        permissions => Ok(permissions),
    }
}

//! Makes directories, checks whether paths exist, and deletes. Called by `connection`.

use super::{as_user, at, check_mode, resolve};
use crate::fault;
use crate::guest::Guest;
use leapbox_guest_protocol::{Delete, FaultKind, GuestFault, Mkdir};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Makes a directory. An existing directory is a fault, unless the request is recursive, as with `mkdir -p`.
pub(crate) fn mkdir(guest: &Guest, request: &Mkdir) -> Result<(), GuestFault> {
    let path = resolve(guest, &request.path)?;
    let mode = check_mode(request.permissions)?;
    as_user(guest, || {
        let existed = request.recursive && path.is_dir();
        DirBuilder::new().recursive(request.recursive).create(&path).map_err(|error| at(&path, &error))?;
        match mode {
            // An existing directory keeps its permissions. They are set apart from making it, because the process's
            // mask would take bits away.
            Some(mode) if !existed => {
                fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(|error| at(&path, &error))
            }
            _ => Ok(()),
        }
    })
}

/// Whether a path exists, symbolic links followed. A directory on the way that the user may not enter is a fault and
/// not a "no".
pub(crate) fn exists(guest: &Guest, path: &str) -> Result<bool, GuestFault> {
    let path = resolve(guest, path)?;
    as_user(guest, || match fs::metadata(&path) {
        Ok(_) => Ok(true),
        Err(error) => match at(&path, &error) {
            fault if matches!(fault.kind, FaultKind::NotFound | FaultKind::NotADirectory) => Ok(false),
            // A link that leads to itself leads nowhere.
            _ if error.raw_os_error() == Some(libc::ELOOP) => Ok(false),
            fault => Err(fault),
        },
    })
}

/// Deletes a file, a link (which is not followed) or a directory, one with entries only if the request is recursive.
pub(crate) fn delete(guest: &Guest, request: &Delete) -> Result<(), GuestFault> {
    let path = resolve(guest, &request.path)?;
    if path == Path::new("/") {
        return Err(fault::invalid("/: cannot be deleted"));
    }
    as_user(guest, || remove(&path, request.recursive).map_err(|error| at(&path, &error)))
}

fn remove(path: &Path, recursive: bool) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        fs::remove_file(path)
    } else if recursive {
        fs::remove_dir_all(path)
    } else {
        fs::remove_dir(path)
    }
}

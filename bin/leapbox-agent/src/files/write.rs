//! Writes files. Called by `connection`.

use super::{as_user, at, check_mode, open_regular, resolve};
use crate::guest::Guest;
use leapbox_guest_protocol::{GuestFault, WriteFile};
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Writes a file's whole content. Missing parent directories are made. An existing file keeps its inode, its hard links
/// and, unless the request has others, its permissions.
pub(crate) fn write(guest: &Guest, request: &WriteFile<'_>) -> Result<(), GuestFault> {
    let path = resolve(guest, &request.path)?;
    let mode = check_mode(request.permissions)?;
    as_user(guest, || {
        make_parent(&path)?;
        // Truncated only after it is known to be a regular file: truncating on opening could act on a device.
        let mut options = OpenOptions::new();
        let (mut file, old) = open_regular(&path, options.write(true).create(true).truncate(false))?;
        let failed = |error| at(&path, &error);
        if old.len() > 0 {
            file.set_len(0).map_err(failed)?;
        }
        if let Some(mode) = mode {
            file.set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
        }
        file.write_all(request.content).map_err(failed)
    })
}

fn make_parent(path: &Path) -> Result<(), GuestFault> {
    match path.parent() {
        Some(parent) if !parent.is_dir() => fs::create_dir_all(parent).map_err(|error| at(parent, &error)),
        _ => Ok(()),
    }
}

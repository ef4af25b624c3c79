//! The files in a jail: their names, their owners, and the hard links to shared artifacts.
//!
//! Firecracker is given paths relative to the jail's root, its working directory. A snapshot names its drives by these
//! paths and so fits every jail.

use crate::error::VmmError;
use crate::spec::STATE_MAX;
use leapbox_errors::{FileError, chain};
use leapbox_storage::{copy_sparse, private_dir};
use nix::unistd::{Gid, Uid};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::path::{Path, PathBuf};

/// The socket of Firecracker's API.
pub(super) const SOCKET: &str = "api.sock";
pub(super) const KERNEL: &str = "kernel";
pub(super) const INITRAMFS: &str = "initramfs";
/// The template's root file system, which is also the id of its drive.
pub(super) const ROOTFS: &str = "rootfs";
/// The writable disk, which is also the id of its drive.
pub(super) const DISK: &str = "disk";
/// The guest memory that a restore loads.
pub(super) const MEMORY: &str = "memory";
/// The device state that a restore loads.
pub(super) const STATE: &str = "state";
/// The guest memory that Firecracker writes when a snapshot is taken.
pub(super) const NEW_MEMORY: &str = "new-memory";
/// The device state that Firecracker writes when a snapshot is taken.
pub(super) const NEW_STATE: &str = "new-state";
/// The file of inherited pages (see [`memory`](crate::memory)). It is in the machine's directory and not in the jail,
/// so that a VMM that its guest has taken over cannot alter it.
pub(super) const INHERITED_PAGES: &str = "inherited";

/// The directories that the jailer makes and gives to the VMM's uid, the jail's root first.
const DIRECTORIES: [&str; 4] = ["", "dev", "dev/net", "run"];

/// Makes the jail's directories root's again. From then on the VMM's uid can use the files in them but add none.
pub(super) fn reclaim_directories(root: &Path) -> Result<(), VmmError> {
    for directory in DIRECTORIES {
        let path = root.join(directory);
        // The uid has owned these names until now. Through an opened descriptor, and with no link followed, the change
        // of owner cannot be led to a directory of the host.
        let opened = File::options().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(&path);
        let dir = match opened {
            Ok(dir) => dir,
            // A jailer that does not make one of the others leaves nothing to protect there.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !directory.is_empty() => continue,
            Err(error) => return Err(FileError::of("opening", &path)(error).into()),
        };
        fchown(&dir, Some(0), Some(0)).map_err(FileError::of("changing the owner of", &path))?;
        dir.set_permissions(Permissions::from_mode(0o755)).map_err(FileError::of("setting the mode of", &path))?;
    }
    Ok(())
}

/// Links the read-only `source` into `dir` as `name`. If it is on another file system, it is copied into `copies` once
/// and linked from there. Blocking.
pub(super) fn link(source: &Path, dir: &Path, name: &str, copies: &Path) -> Result<(), VmmError> {
    let target = dir.join(name);
    // ENOENT from link(2) does not say which of the two paths is missing.
    fs::metadata(source).map_err(FileError::of("finding", source))?;
    let linked = match fs::hard_link(source, &target) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            fs::hard_link(copy_near(source, copies)?, &target)
        }
        linked => linked,
    };
    Ok(linked.map_err(FileError::of("linking to", &target))?)
}

/// Returns the copy of `source` in `copies`, which it makes if there is none yet.
fn copy_near(source: &Path, copies: &Path) -> Result<PathBuf, VmmError> {
    let meta = fs::metadata(source).map_err(FileError::of("finding", source))?;
    // The name changes when the source does: no program can set a file's ctime, and every change of its contents, mode
    // or links moves it on.
    let changed = format!("{:x}.{:x}", meta.ctime(), meta.ctime_nsec());
    let copy = copies.join(format!("{:x}-{:x}-{changed}", meta.dev(), meta.ino()));
    if fs::symlink_metadata(&copy).is_ok_and(|there| there.is_file() && there.len() == meta.len()) {
        return Ok(copy);
    }
    // A name for each thread, so that two restores that copy the same source do not write into one file. The later
    // rename replaces an equal copy.
    let unfinished = copies.join(format!(".{:?}", std::thread::current().id()));
    remove(&unfinished);
    copy_sparse(source, &unfinished).map_err(|source| VmmError::CopyMemory { path: copy.clone(), source })?;
    fs::set_permissions(&unfinished, Permissions::from_mode(0o444))
        .map_err(FileError::of("making read-only", &unfinished))?;
    let synced = File::open(&unfinished).and_then(|file| file.sync_all());
    synced.map_err(FileError::of("writing to disk", &unfinished))?;
    fs::rename(&unfinished, &copy).map_err(FileError::of("moving into place", &copy))?;
    Ok(copy)
}

/// Makes the directory of copies, root's alone, and removes the copies of a previous server.
pub(super) fn empty_copies(copies: &Path) -> Result<(), VmmError> {
    private_dir(copies).map_err(|source| VmmError::Folder { path: copies.to_path_buf(), source })?;
    // Machines of the previous server that still run have hard links to their copies, and keep them.
    for entry in fs::read_dir(copies).map_err(FileError::of("listing", copies))?.flatten() {
        remove(&entry.path());
    }
    Ok(())
}

/// Links the machine's own disk into `dir` and makes `uid` its owner.
pub(super) fn link_disk(disk: &Path, dir: &Path, uid: u32) -> Result<(), VmmError> {
    let target = dir.join(DISK);
    fs::hard_link(disk, &target).map_err(FileError::of("linking to", &target))?;
    chown_to(&target, uid)
}

/// Makes an empty file in the jail that Firecracker, as `uid`, may write.
pub(super) fn new_output(root: &Path, name: &str, uid: u32) -> Result<(), VmmError> {
    let path = root.join(name);
    let made = File::options().write(true).create_new(true).mode(0o600).open(&path);
    made.map_err(FileError::of("creating", &path))?;
    chown_to(&path, uid)
}

/// Reads the device state that Firecracker has written.
pub(super) fn read_state(root: &Path) -> Result<Vec<u8>, VmmError> {
    let path = root.join(NEW_STATE);
    let from = File::open(&path).map_err(FileError::of("opening", &path))?;
    let mut state = Vec::new();
    // Bounded by what is read and not by the file's length, which a VMM that its guest has taken over can change at any
    // time.
    from.take(STATE_MAX + 1).read_to_end(&mut state).map_err(FileError::of("reading", &path))?;
    let found = state.len() as u64;
    if (1..=STATE_MAX).contains(&found) { Ok(state) } else { Err(VmmError::StateLength { found }) }
}

/// Writes a device state into the jail, read-only and root's, for Firecracker to load.
pub(super) fn write_state(root: &Path, state: &[u8]) -> Result<(), VmmError> {
    let path = root.join(STATE);
    let made = File::options().write(true).create_new(true).mode(0o600).open(&path);
    let mut to = made.map_err(FileError::of("creating", &path))?;
    to.write_all(state).map_err(FileError::of("writing", &path))?;
    Ok(to.set_permissions(Permissions::from_mode(0o444)).map_err(FileError::of("making read-only", &path))?)
}

/// Removes the files that [`new_output`] has made, if there are any.
pub(super) fn remove_outputs(root: &Path) {
    for name in [NEW_MEMORY, NEW_STATE] {
        remove(&root.join(name));
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), error = %chain(&error), "a file of a jail could not be removed");
    }
}

fn chown_to(path: &Path, uid: u32) -> Result<(), VmmError> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    Ok(chown(path, Some(user.as_raw()), Some(group.as_raw())).map_err(FileError::of("changing the owner of", path))?)
}

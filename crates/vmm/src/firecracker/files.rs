//! What lies in a jail: names, hard links to shared artifacts, and who owns what.
//!
//! Paths are relative to the jail's root, where Firecracker runs: a snapshot names its drives by them and fits every
//! jail.

use crate::error::VmmError;
use crate::spec::STATE_MAX;
use leapbox_errors::{FileError, chain};
use leapbox_storage::{copy_sparse, private_dir};
use nix::unistd::{Gid, Uid};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::path::{Path, PathBuf};

/// The API's socket.
pub(super) const SOCKET: &str = "api.sock";
/// The kernel's ELF image.
pub(super) const KERNEL: &str = "kernel";
/// The initramfs.
pub(super) const INITRAMFS: &str = "initramfs";
/// The template's root file system.
pub(super) const ROOTFS: &str = "rootfs";
/// The writable disk.
pub(super) const DISK: &str = "disk";
/// Guest RAM to start from.
pub(super) const MEMORY: &str = "memory";
/// Device and CPU state to start from.
pub(super) const STATE: &str = "state";
/// Guest RAM that is written.
pub(super) const NEW_MEMORY: &str = "new-memory";
/// Device and CPU state that is written.
pub(super) const NEW_STATE: &str = "new-state";
/// The note of what in a machine's RAM came from changes: in the machine's own folder, out of the jail's reach.
pub(super) const INHERITED: &str = "inherited";

/// Folders the jailer makes and gives to the sandbox's uid, the root first.
const FOLDERS: [&str; 4] = ["", "dev", "dev/net", "run"];

/// Makes the jail's folders root's again: what is in them can be used by the sandbox's uid, and nothing added.
pub(super) fn take_back_folders(root: &Path) -> Result<(), VmmError> {
    for folder in FOLDERS {
        let path = root.join(folder);
        let opened = File::options().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(&path);
        let dir = match opened {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.is_empty() => continue,
            Err(error) => return Err(FileError::of("opening", &path)(error).into()),
        };
        fchown(&dir, Some(0), Some(0)).map_err(FileError::of("taking back", &path))?;
        dir.set_permissions(Permissions::from_mode(0o755)).map_err(FileError::of("protecting", &path))?;
    }
    Ok(())
}

/// Links the read-only `source` into `dir` as `name`. Where it lies on another file system, one copy of it is made in
/// `copies` and linked from there. Blocking.
pub(super) fn link(source: &Path, dir: &Path, name: &str, copies: &Path) -> Result<(), VmmError> {
    let target = dir.join(name);
    // By itself a failing link does not tell which of the two is missing.
    fs::metadata(source).map_err(FileError::of("looking at", source))?;
    let linked = match fs::hard_link(source, &target) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            fs::hard_link(copy_near(source, copies)?, &target)
        }
        linked => linked,
    };
    Ok(linked.map_err(FileError::of("linking to", &target))?)
}

/// The copy of `source` in `copies`, made unless it is there. A changed source is another copy.
fn copy_near(source: &Path, copies: &Path) -> Result<PathBuf, VmmError> {
    let meta = fs::metadata(source).map_err(FileError::of("looking at", source))?;
    let changed = format!("{:x}.{:x}", meta.ctime(), meta.ctime_nsec());
    let copy = copies.join(format!("{:x}-{:x}-{changed}", meta.dev(), meta.ino()));
    if fs::symlink_metadata(&copy).is_ok_and(|there| there.is_file() && there.len() == meta.len()) {
        return Ok(copy);
    }
    let unfinished = copies.join(format!(".{:?}", std::thread::current().id()));
    remove(&unfinished);
    copy_sparse(source, &unfinished).map_err(|source| VmmError::CopyMemory { path: copy.clone(), source })?;
    fs::set_permissions(&unfinished, Permissions::from_mode(0o444))
        .map_err(FileError::of("protecting", &unfinished))?;
    let synced = File::open(&unfinished).and_then(|file| file.sync_all());
    synced.map_err(FileError::of("writing to disk", &unfinished))?;
    fs::rename(&unfinished, &copy).map_err(FileError::of("moving into place", &copy))?;
    Ok(copy)
}

/// Makes the folder of copies, root's alone, and empties it of what a former server made: jails keep their links.
pub(super) fn empty_copies(copies: &Path) -> Result<(), VmmError> {
    private_dir(copies).map_err(|source| VmmError::Folder { path: copies.to_path_buf(), source })?;
    for entry in fs::read_dir(copies).map_err(FileError::of("listing", copies))?.flatten() {
        remove(&entry.path());
    }
    Ok(())
}

/// Links the machine's own disk into `dir` and gives it to its uid.
pub(super) fn link_disk(disk: &Path, dir: &Path, uid: u32) -> Result<(), VmmError> {
    let target = dir.join(DISK);
    fs::hard_link(disk, &target).map_err(FileError::of("linking to", &target))?;
    give(&target, uid)
}

/// A new, empty file in the jail that the machine may write.
pub(super) fn new_output(root: &Path, name: &str, uid: u32) -> Result<(), VmmError> {
    let path = root.join(name);
    let made = File::options().write(true).create_new(true).mode(0o600).open(&path);
    made.map_err(FileError::of("creating", &path))?;
    give(&path, uid)
}

/// The device state a machine has written, whatever the machine does meanwhile.
pub(super) fn read_state(root: &Path) -> Result<Vec<u8>, VmmError> {
    let path = root.join(NEW_STATE);
    let from = File::open(&path).map_err(FileError::of("opening", &path))?;
    let mut state = Vec::new();
    from.take(STATE_MAX + 1).read_to_end(&mut state).map_err(FileError::of("reading", &path))?;
    let found = state.len() as u64;
    if (1..=STATE_MAX).contains(&found) { Ok(state) } else { Err(VmmError::StateLength { found }) }
}

/// Writes a device state into the jail, for the machine to read and nobody to change.
pub(super) fn write_state(root: &Path, state: &[u8]) -> Result<(), VmmError> {
    let path = root.join(STATE);
    let made = File::options().write(true).create_new(true).mode(0o600).open(&path);
    let mut to = made.map_err(FileError::of("creating", &path))?;
    to.write_all(state).map_err(FileError::of("writing", &path))?;
    Ok(to.set_permissions(Permissions::from_mode(0o444)).map_err(FileError::of("protecting", &path))?)
}

/// Removes what [`new_output`] made.
pub(super) fn remove_outputs(root: &Path) {
    for name in [NEW_MEMORY, NEW_STATE] {
        remove(&root.join(name));
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), error = %chain(&error), "a file could not be removed");
    }
}

fn give(path: &Path, uid: u32) -> Result<(), VmmError> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    Ok(chown(path, Some(user.as_raw()), Some(group.as_raw())).map_err(FileError::of("giving away", path))?)
}

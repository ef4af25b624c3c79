//! Mounts the initramfs's own file systems, the overlay that becomes the root, and those that every guest has besides.
//!
//! ```text
//! EROFS (read-only, shared) ─ /lower ┐
//! ext4 (the sandbox's own) ── /disk ─┴─ overlay at /root-overlay ─▶ / with /dev, /proc and /sys moved into it
//! ```

use super::disks::Disks;
use leapbox_errors::FileError;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, chroot};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Mount points in the initramfs, out of reach once the root is switched.
const LOWER: &str = "/lower";
const DISK: &str = "/disk";
const NEW_ROOT: &str = "/root-overlay";

const PRIVATE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
const DEVICES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);

/// Mounts a file system that is on no disk, making its mount point if it is missing.
fn mount_at(kind: &str, target: &str, flags: MsFlags, options: &str) -> Result<(), FileError> {
    fs::create_dir_all(target).map_err(FileError::of("making", target))?;
    mount(Some(kind), target, Some(kind), flags, Some(options)).map_err(FileError::of("mounting", target))
}

/// Mounts the file systems that finding disks and loading modules need.
pub(super) fn mount_initramfs() -> Result<(), FileError> {
    // Nothing that PID 1 makes may be writable for everybody, whatever mask it was started with.
    umask(Mode::from_bits_truncate(0o022));
    mount_at("devtmpfs", "/dev", DEVICES, "mode=0755")?;
    mount_at("proc", "/proc", PRIVATE, "")?;
    mount_at("sysfs", "/sys", PRIVATE, "")
}

/// Mounts both disks and the overlay over them.
pub(super) fn assemble(disks: &Disks) -> Result<(), FileError> {
    mount_disk(&disks.erofs, LOWER, "erofs", MsFlags::MS_RDONLY)?;
    mount_disk(&disks.ext4, DISK, "ext4", MsFlags::MS_NOATIME)?;
    for folder in ["upper", "work"] {
        let folder = Path::new(DISK).join(folder);
        fs::create_dir_all(&folder).map_err(FileError::of("making", &folder))?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))
            .map_err(FileError::of("setting the mode of", &folder))?;
    }
    // Without redirect_dir, renaming a directory of the image fails with EXDEV. xino makes all files appear to be on
    // one device, as programs that compare inode numbers expect.
    let options = format!("lowerdir={LOWER},upperdir={DISK}/upper,workdir={DISK}/work,redirect_dir=on,xino=auto");
    mount_at("overlay", NEW_ROOT, MsFlags::MS_NOATIME, &options)?;
    // The overlay keeps both file systems alive. Detached, they have no path of their own under which its layers could
    // be changed behind its back.
    for disk in [LOWER, DISK] {
        umount2(disk, MntFlags::MNT_DETACH).map_err(FileError::of("hiding", disk))?;
    }
    Ok(())
}

fn mount_disk(disk: &Path, target: &str, kind: &str, flags: MsFlags) -> Result<(), FileError> {
    fs::create_dir_all(target).map_err(FileError::of("making", target))?;
    mount(Some(disk), target, Some(kind), flags, None::<&str>).map_err(FileError::of("mounting", disk))
}

/// Makes the overlay the root.
pub(super) fn switch() -> Result<(), FileError> {
    for folder in ["/dev", "/proc", "/sys"] {
        let target = format!("{NEW_ROOT}{folder}");
        fs::create_dir_all(&target).map_err(FileError::of("making", &target))?;
        mount(Some(folder), target.as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(FileError::of("moving", folder))?;
    }
    // As switch_root(8) does it: pivot_root(2) refuses to move the initramfs, which stays mounted below, out of reach.
    chdir(NEW_ROOT).map_err(FileError::of("entering", NEW_ROOT))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).map_err(FileError::of("moving", NEW_ROOT))?;
    chroot(".").map_err(FileError::of("entering", NEW_ROOT))?;
    chdir("/").map_err(FileError::of("entering", "/"))
}

/// Mounts and makes what programs expect besides their root file system.
pub(super) fn mount_guest() -> Result<(), FileError> {
    let no_devices = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount_at("devpts", "/dev/pts", DEVICES, "gid=5,mode=0620,ptmxmode=0666")?;
    mount_at("tmpfs", "/dev/shm", no_devices, "mode=1777")?;
    mount_at("tmpfs", "/run", no_devices, "mode=0755,size=20%")?;
    mount_at("cgroup2", super::limits::CGROUPS, PRIVATE, "")?;
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        if fs::symlink_metadata(link).is_err() {
            symlink(target, link).map_err(FileError::of("linking", link))?;
        }
    }
    fs::create_dir_all("/run/lock").map_err(FileError::of("making", "/run/lock"))?;
    // `/tmp` is a directory of the disk and no tmpfs: a guest has 10 GiB of disk, and as little as 512 MiB of memory.
    fs::create_dir_all("/tmp").map_err(FileError::of("making", "/tmp"))?;
    fs::set_permissions("/tmp", fs::Permissions::from_mode(0o1777))
        .map_err(FileError::of("setting the mode of", "/tmp"))
}

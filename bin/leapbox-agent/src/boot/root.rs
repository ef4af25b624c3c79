//! Mounts: the initramfs's own, the overlay that becomes the root, and what every guest has.

use super::disks::Disks;
use leapbox_errors::FileError;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, chroot};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Mount points in the initramfs.
const LOWER: &str = "/lower";
const DISK: &str = "/disk";
const NEW_ROOT: &str = "/root-overlay";

const PRIVATE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
const DEVICES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);

/// One mount of a file system without a disk.
fn mount_at(kind: &str, target: &str, flags: MsFlags, options: &str) -> Result<(), FileError> {
    fs::create_dir_all(target).map_err(FileError::of("making", target))?;
    mount(Some(kind), target, Some(kind), flags, Some(options)).map_err(FileError::of("mounting", target))
}

/// What finding disks and loading modules needs.
pub(super) fn mount_initramfs() -> Result<(), FileError> {
    umask(Mode::from_bits_truncate(0o022));
    mount_at("devtmpfs", "/dev", DEVICES, "mode=0755")?;
    mount_at("proc", "/proc", PRIVATE, "")?;
    mount_at("sysfs", "/sys", PRIVATE, "")
}

/// Mounts both disks and the overlay of them. The disks themselves are then unmounted from view: the overlay holds them.
pub(super) fn assemble(disks: &Disks) -> Result<(), FileError> {
    mount_disk(&disks.erofs, LOWER, "erofs", MsFlags::MS_RDONLY)?;
    mount_disk(&disks.ext4, DISK, "ext4", MsFlags::MS_NOATIME)?;
    for folder in ["upper", "work"] {
        let folder = Path::new(DISK).join(folder);
        fs::create_dir_all(&folder).map_err(FileError::of("making", &folder))?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))
            .map_err(FileError::of("setting the mode of", &folder))?;
    }
    // redirect_dir: programs may rename folders of the image. xino: all files appear to be on one device.
    let options = format!("lowerdir={LOWER},upperdir={DISK}/upper,workdir={DISK}/work,redirect_dir=on,xino=auto");
    mount_at("overlay", NEW_ROOT, MsFlags::MS_NOATIME, &options)?;
    for disk in [LOWER, DISK] {
        umount2(disk, MntFlags::MNT_DETACH).map_err(FileError::of("hiding", disk))?;
    }
    Ok(())
}

fn mount_disk(disk: &Path, target: &str, kind: &str, flags: MsFlags) -> Result<(), FileError> {
    fs::create_dir_all(target).map_err(FileError::of("making", target))?;
    mount(Some(disk), target, Some(kind), flags, None::<&str>).map_err(FileError::of("mounting", disk))
}

/// Makes the overlay the root. The initramfs stays mounted below it, out of reach.
pub(super) fn switch() -> Result<(), FileError> {
    for folder in ["/dev", "/proc", "/sys"] {
        let target = format!("{NEW_ROOT}{folder}");
        fs::create_dir_all(&target).map_err(FileError::of("making", &target))?;
        mount(Some(folder), target.as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(FileError::of("moving", folder))?;
    }
    chdir(NEW_ROOT).map_err(FileError::of("entering", NEW_ROOT))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).map_err(FileError::of("moving", NEW_ROOT))?;
    chroot(".").map_err(FileError::of("entering", NEW_ROOT))?;
    chdir("/").map_err(FileError::of("entering", "/"))
}

/// What programs expect beside their root file system. `/tmp` is on the disk: memory is scarcer.
pub(super) fn mount_guest() -> Result<(), FileError> {
    let ours = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount_at("devpts", "/dev/pts", DEVICES, "gid=5,mode=0620,ptmxmode=0666")?;
    mount_at("tmpfs", "/dev/shm", ours, "mode=1777")?;
    mount_at("tmpfs", "/run", ours, "mode=0755,size=20%")?;
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
    fs::create_dir_all("/tmp").map_err(FileError::of("making", "/tmp"))?;
    fs::set_permissions("/tmp", fs::Permissions::from_mode(0o1777))
        .map_err(FileError::of("setting the mode of", "/tmp"))
}

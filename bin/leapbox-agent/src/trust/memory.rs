//! Holds the certificate in memory: in a directory of the initramfs, bind-mounted read-only over `/run/leapbox`. Called
//! by the trust worker's thread.
//!
//! No disk that is full, frozen or broken can keep the certificate from there. The bundle in it is a link to the
//! system's own if that has our certificate, so that certificates which the guest adds later count too; else a copy.

use super::bundle::Certificate;
use super::tree::{Attributes, Tree};
use nix::mount::{MsFlags, mount};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Paths of the two files in the directory.
pub(super) const CERTIFICATE_NAME: &str = "/egress-ca.pem";
pub(super) const BUNDLE_NAME: &str = "/ca-bundle.pem";

const READ_ONLY: MsFlags =
    MsFlags::MS_RDONLY.union(MsFlags::MS_NOSUID).union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
const PUBLIC: Attributes = Attributes::of_root(0o644);

/// The directory, and the path at which the guest's programs see it.
#[derive(Debug)]
pub(super) struct Memory {
    folder: Tree,
    mount_point: PathBuf,
}

impl Memory {
    /// Makes the directory `trust` in `hidden`, and mounts nothing yet.
    pub(super) fn install(hidden: &Path, mount_point: &Path) -> io::Result<Self> {
        let folder = hidden.join("trust");
        fs::create_dir_all(&folder)?;
        Ok(Self { folder: Tree::open(&folder)?, mount_point: mount_point.to_owned() })
    }

    /// Writes both files, and mounts the directory if it is not mounted.
    pub(super) fn write(&self, certificate: &Certificate, bundle: &[u8]) -> io::Result<()> {
        self.folder.write(CERTIFICATE_NAME, certificate.pem().as_bytes(), PUBLIC)?;
        self.folder.write(BUNDLE_NAME, bundle, PUBLIC)?;
        self.ensure_mounted()
    }

    /// Makes the bundle a symbolic link to the system's.
    pub(super) fn link_bundle_to(&self, system: &str) -> io::Result<()> {
        self.folder.link(BUNDLE_NAME, system)
    }

    /// Removes the certificate, and makes the bundle a link to the system's.
    pub(super) fn remove(&self, system: impl FnOnce() -> &'static str) -> io::Result<()> {
        self.folder.remove(CERTIFICATE_NAME)?;
        // The bundle stays as a link, because processes that were started before have its path in their environment: if
        // it were gone, they could verify no server at all.
        let has_copy = self.folder.read(BUNDLE_NAME).is_ok_and(|bundle| bundle.is_some());
        if has_copy { self.link_bundle_to(system()) } else { Ok(()) }
    }

    /// Mounts the directory read-only at its mount point, unless it is mounted there.
    fn ensure_mounted(&self) -> io::Result<()> {
        if !self.is_mounted() {
            // The guest's root may have put a file or a link there. Mounting through descriptors, opened without
            // following a link, keeps it from swapping the path between the check and the mount.
            if fs::symlink_metadata(&self.mount_point).is_ok_and(|there| !there.is_dir()) {
                fs::remove_file(&self.mount_point)?;
            }
            fs::create_dir_all(&self.mount_point)?;
            let (source, target) = (by_descriptor(&self.folder.as_fd()), open(&self.mount_point)?);
            mount(
                Some(source.as_str()),
                by_descriptor(&target).as_str(),
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )?;
        }
        // Opened again, because the path now leads to the new mount. A bind mount takes its flags from a remount only.
        let (target, flags) = (open(&self.mount_point)?, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | READ_ONLY);
        mount(None::<&str>, by_descriptor(&target).as_str(), None::<&str>, flags, None::<&str>)?;
        Ok(())
    }

    fn is_mounted(&self) -> bool {
        let ours = nix::sys::stat::fstat(self.folder.as_fd());
        let seen = open(&self.mount_point).and_then(|folder| folder.metadata());
        ours.is_ok_and(|ours| seen.is_ok_and(|seen| (seen.dev(), seen.ino()) == (ours.st_dev, ours.st_ino)))
    }
}

/// Opens a directory, and fails for a symbolic link to one.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path)
}

fn by_descriptor(fd: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

//! The certificate's place in memory: a folder of the initramfs, bound read-only over `/run/leapbox`.
//!
//! No disk that is full, frozen or broken can keep it from there. The bundle in it is a link to the system's own where
//! that has our certificate, so that what the guest adds to it counts; a copy where it has not.

use super::bundle::Certificate;
use super::tree::{Attributes, Tree};
use nix::mount::{MsFlags, mount};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Names in the folder.
pub(super) const CERTIFICATE_NAME: &str = "/egress-ca.pem";
pub(super) const BUNDLE_NAME: &str = "/ca-bundle.pem";

const READ_ONLY: MsFlags =
    MsFlags::MS_RDONLY.union(MsFlags::MS_NOSUID).union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
const PUBLIC: Attributes = Attributes::of_root(0o644);

/// The folder and where it is seen.
#[derive(Debug)]
pub(super) struct Memory {
    folder: Tree,
    shown: PathBuf,
}

impl Memory {
    /// Makes the folder `trust` in `hidden`. Nothing is seen of it yet.
    pub(super) fn install(hidden: &Path, shown: &Path) -> io::Result<Self> {
        let folder = hidden.join("trust");
        fs::create_dir_all(&folder)?;
        Ok(Self { folder: Tree::open(&folder)?, shown: shown.to_owned() })
    }

    /// Writes both files and shows them.
    pub(super) fn keep(&self, certificate: &Certificate, bundle: &[u8]) -> io::Result<()> {
        self.folder.write(CERTIFICATE_NAME, certificate.pem().as_bytes(), PUBLIC)?;
        self.folder.write(BUNDLE_NAME, bundle, PUBLIC)?;
        self.show()
    }

    /// Makes the bundle a link to the system's.
    pub(super) fn lead_to(&self, system: &str) -> io::Result<()> {
        self.folder.link(BUNDLE_NAME, system)
    }

    /// Takes the certificate away. The bundle leads to the system's: processes that were started before still have its
    /// path in their environment.
    pub(super) fn forget(&self, system: impl FnOnce() -> &'static str) -> io::Result<()> {
        self.folder.remove(CERTIFICATE_NAME)?;
        let has_copy = self.folder.read(BUNDLE_NAME).is_ok_and(|bundle| bundle.is_some());
        if has_copy { self.lead_to(system()) } else { Ok(()) }
    }

    /// Binds the folder over its place, unless it is there. The guest's root may have put anything in its way.
    fn show(&self) -> io::Result<()> {
        if !self.is_shown() {
            if fs::symlink_metadata(&self.shown).is_ok_and(|there| !there.is_dir()) {
                fs::remove_file(&self.shown)?;
            }
            fs::create_dir_all(&self.shown)?;
            let (source, target) = (by_descriptor(&self.folder.as_fd()), open(&self.shown)?);
            mount(
                Some(source.as_str()),
                by_descriptor(&target).as_str(),
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )?;
        }
        // Opened anew: the path now leads to what was mounted.
        let (target, flags) = (open(&self.shown)?, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | READ_ONLY);
        mount(None::<&str>, by_descriptor(&target).as_str(), None::<&str>, flags, None::<&str>)?;
        Ok(())
    }

    fn is_shown(&self) -> bool {
        let ours = nix::sys::stat::fstat(self.folder.as_fd());
        let seen = open(&self.shown).and_then(|folder| folder.metadata());
        ours.is_ok_and(|ours| seen.is_ok_and(|seen| (seen.dev(), seen.ino()) == (ours.st_dev, ours.st_ino)))
    }
}

/// A folder, and nothing that leads to one.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path)
}

fn by_descriptor(fd: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

//! The RAM of a warm snapshot as a sealed memfd that all its clones map copy-on-write.
//!
//! QEMU 7.2 opens its RAM for writing even where it only ever maps it privately. With a plain file, a guest that has
//! taken over its QEMU could change the RAM of every clone to come; the seals make the kernel refuse that.

use crate::error::VmmError;
use leapbox_storage::copy_data;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Mutex, OnceCell};

/// Name of every sealed image: what a clone's RAM is found by in its QEMU.
pub const NAME: &str = "leapbox-ram";

/// Sealed RAM images by the file they were made from.
#[derive(Debug, Default)]
pub struct RamImages {
    images: Mutex<HashMap<PathBuf, Arc<OnceCell<Arc<OwnedFd>>>>>,
}

impl RamImages {
    /// The sealed copy of `memory`, made at its first use.
    pub async fn sealed(&self, memory: &Path) -> Result<Arc<OwnedFd>, VmmError> {
        let cell = self.images.lock().await.entry(memory.to_path_buf()).or_default().clone();
        let make = || async {
            let path = memory.to_path_buf();
            tokio::task::spawn_blocking(move || seal(&path))
                .await
                .map_err(|e| VmmError::System { step: "sealing a RAM image", source: e.into() })?
                .map(Arc::new)
        };
        cell.get_or_try_init(make).await.cloned()
    }

    /// Forgets the copy of `memory`; running clones keep theirs.
    pub async fn forget(&self, memory: &Path) {
        self.images.lock().await.remove(memory);
    }
}

fn seal(memory: &Path) -> Result<OwnedFd, VmmError> {
    let file = |step| move |source| VmmError::File { step, path: memory.to_path_buf(), source };
    let system = |step| move |errno: nix::errno::Errno| VmmError::System { step, source: errno.into() };
    let from = File::open(memory).map_err(file("opening"))?;
    let length = from.metadata().map_err(file("reading the size of"))?.len();
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let to = File::from(memfd_create(NAME, flags).map_err(system("making a memfd"))?);
    to.set_len(length).map_err(file("sizing the sealed copy of"))?;
    copy_data(&from, &to).map_err(file("copying"))?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
    fcntl(&to, FcntlArg::F_ADD_SEALS(seals)).map_err(system("sealing the memfd"))?;
    Ok(to.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[tokio::test]
    async fn a_sealed_image_has_the_bytes_and_refuses_writes() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("ram");
        let file = File::create(&path).expect("a file");
        file.set_len(64 << 20).expect("sized");
        file.write_all_at(b"kernel", 16 << 20).expect("written");
        let images = RamImages::default();
        let fd = images.sealed(&path).await.expect("sealed");
        let again = images.sealed(&path).await.expect("sealed");
        assert!(Arc::ptr_eq(&fd, &again), "made once");

        let reopened = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&*fd)))
            .expect("QEMU opens it for writing");
        let mut bytes = [0; 6];
        reopened.read_exact_at(&mut bytes, 16 << 20).expect("read");
        assert_eq!(&bytes, b"kernel");
        assert!(reopened.write_at(b"poison", 16 << 20).is_err());
        assert!(reopened.set_len(0).is_err());
    }
}

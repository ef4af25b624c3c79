//! The RAM of a base as a sealed memfd, which all its clones map copy-on-write.
//!
//! QEMU 7.2 opens its RAM for writing even if it only maps it privately. With a plain file, a guest that has taken over
//! its QEMU could change the RAM of every later clone; the seals make the kernel refuse that.

use super::memfd;
use crate::blocking::blocking;
use crate::error::VmmError;
use leapbox_errors::FileError;
use leapbox_storage::copy_data;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Mutex, OnceCell};

/// The name of every sealed image, by which a clone's RAM is found among the mappings of its QEMU.
pub const NAME: &str = "leapbox-ram";

/// The most images that are kept at once. Each holds some hundred MiB of the host's memory, and one organisation can
/// ask for many shapes. Beyond it the one unused for the longest is dropped, and its next restore copies it again.
const KEPT_MAX: usize = 16;

type ImageCell = Arc<OnceCell<Arc<OwnedFd>>>;

/// Sealed RAM images by the file they were made from, and when each was last asked for.
#[derive(Debug, Default)]
pub struct RamImages {
    images: Mutex<HashMap<PathBuf, (Instant, ImageCell)>>,
}

impl RamImages {
    /// Returns the sealed copy of `memory`, which the first call makes.
    pub async fn sealed(&self, memory: &Path) -> Result<Arc<OwnedFd>, VmmError> {
        let cell = self.cell(memory).await;
        let make = || async {
            let path = memory.to_path_buf();
            blocking("sealing a RAM image", move || seal(&path)).await.map(Arc::new)
        };
        // Restores of one base at the same time make one copy and wait for it; those of other bases do not wait.
        cell.get_or_try_init(make).await.cloned()
    }

    /// Drops this process's copy of `memory`. Running clones have descriptors of their own and keep it.
    pub async fn forget(&self, memory: &Path) {
        self.images.lock().await.remove(memory);
    }

    /// The cell of the image of `memory`. If it is new and there are [`KEPT_MAX`], the one unused for the longest goes.
    async fn cell(&self, memory: &Path) -> ImageCell {
        let mut images = self.images.lock().await;
        if !images.contains_key(memory) && images.len() >= KEPT_MAX {
            let oldest = images.iter().min_by_key(|(_, (asked, _))| *asked).map(|(path, _)| path.clone());
            oldest.map(|path| images.remove(&path));
        }
        let (asked, cell) =
            images.entry(memory.to_path_buf()).or_insert_with(|| (Instant::now(), ImageCell::default()));
        *asked = Instant::now();
        Arc::clone(cell)
    }
}

fn seal(memory: &Path) -> Result<OwnedFd, VmmError> {
    let from = File::open(memory).map_err(FileError::of("opening", memory))?;
    let length = from.metadata().map_err(FileError::of("reading the size of", memory))?.len();
    memfd::sealed(NAME, |to| {
        to.set_len(length).map_err(FileError::of("sizing the sealed copy of", memory))?;
        Ok(copy_data(&from, to).map_err(FileError::of("copying", memory))?)
    })
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

    #[tokio::test]
    async fn only_so_many_images_are_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let images = RamImages::default();
        for number in 0..KEPT_MAX + 3 {
            let path = dir.path().join(number.to_string());
            std::fs::write(&path, [1; 4096]).expect("written");
            images.sealed(&path).await.expect("sealed");
        }
        let kept = images.images.lock().await;
        assert_eq!(kept.len(), KEPT_MAX);
        assert!(!kept.contains_key(&dir.path().join("0")) && kept.contains_key(&dir.path().join("18")));
    }
}

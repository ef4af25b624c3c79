//! Finds the guest's two disks by the file systems on them, because no order of them is promised.
//!
//! Between [`wait_for_devices`] and [`find`] a base snapshot may have been taken, and the writable disk may be another
//! one in every clone of it. So nothing opens a disk before it is to be mounted, and whatever the kernel cached
//! of one when it looked for partitions is dropped first.

use super::BootError;
use leapbox_errors::FileError;
use nix::errno::Errno;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Byte offset at which the superblocks of both EROFS and ext4 start.
const SUPERBLOCK: u64 = 1024;
/// EROFS_SUPER_MAGIC_V1 of <linux/magic.h>, at the start of the superblock.
const EROFS_MAGIC: [u8; 4] = 0xe0f5_e1e2_u32.to_le_bytes();
/// EXT4_SUPER_MAGIC of <linux/magic.h>, and its byte offset in the superblock.
const EXT4_MAGIC: [u8; 2] = 0xef53_u16.to_le_bytes();
const EXT4_MAGIC_AT: u64 = 56;

// The kernel probes devices asynchronously after their driver was loaded. Beyond this time the boot fails and says how
// many disks there are, instead of hanging without a word.
const APPEAR_TIMEOUT: Duration = Duration::from_secs(10);

/// Disks of every guest: the image's and the sandbox's own.
const COUNT: usize = 2;
/// The request that drops what the kernel has cached of a block device (<linux/fs.h>).
const BLKFLSBUF: libc::c_ulong = 0x1261;

/// Device paths of the two disks: the image's read-only root (EROFS), and the sandbox's own (ext4).
#[derive(Debug)]
pub(super) struct Disks {
    pub(super) erofs: PathBuf,
    pub(super) ext4: PathBuf,
}

enum Content {
    Erofs,
    Ext4,
    Other,
}

/// Waits until the kernel lists both disks in /sys/block, without opening either.
pub(super) fn wait_for_devices() -> Result<(), BootError> {
    let deadline = Instant::now() + APPEAR_TIMEOUT;
    loop {
        match virtio_disks().count() {
            COUNT.. => return Ok(()),
            _ if Instant::now() < deadline => sleep(Duration::from_millis(5)),
            found => return Err(BootError::FewDisks { found, expected: COUNT }),
        }
    }
}

/// Finds the two wanted disks among those that are there.
pub(super) fn find() -> Result<Disks, BootError> {
    // The kernel has read the first blocks of the disk that was there when the base snapshot was taken, looking for
    // partitions. Mounting this machine's disk with those blocks in the cache could corrupt it.
    for disk in virtio_disks() {
        forget_cached(&disk).map_err(FileError::of("dropping what is cached of", &disk))?;
    }
    let deadline = Instant::now() + APPEAR_TIMEOUT;
    loop {
        let (mut erofs, mut ext4) = (None, None);
        for disk in virtio_disks() {
            match content(&disk) {
                Ok(Content::Erofs) => erofs = Some(disk),
                Ok(Content::Ext4) => ext4 = Some(disk),
                // A disk that cannot be read yet is looked at again until the deadline.
                Ok(Content::Other) | Err(_) => {}
            }
        }
        match (erofs, ext4) {
            (Some(erofs), Some(ext4)) => return Ok(Disks { erofs, ext4 }),
            _ if Instant::now() < deadline => sleep(Duration::from_millis(5)),
            (None, _) => return Err(BootError::NoDisk { filesystem: "EROFS" }),
            (_, None) => return Err(BootError::NoDisk { filesystem: "ext4" }),
        }
    }
}

fn virtio_disks() -> impl Iterator<Item = PathBuf> {
    let names = fs::read_dir("/sys/block").into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with("vd")).map(|name| Path::new("/dev").join(name))
}

fn forget_cached(disk: &Path) -> io::Result<()> {
    let disk = File::open(disk)?;
    // SAFETY: the request takes no argument.
    let result = unsafe { libc::ioctl(disk.as_raw_fd(), BLKFLSBUF, 0) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

fn content(disk: &Path) -> io::Result<Content> {
    let file = File::open(disk)?;
    let (mut erofs, mut ext4) = ([0; 4], [0; 2]);
    file.read_exact_at(&mut erofs, SUPERBLOCK)?;
    file.read_exact_at(&mut ext4, SUPERBLOCK + EXT4_MAGIC_AT)?;
    Ok(match (erofs, ext4) {
        (EROFS_MAGIC, _) => Content::Erofs,
        (_, EXT4_MAGIC) => Content::Ext4,
        _ => Content::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(at: u64, magic: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        file.as_file().set_len(4096).expect("sizes");
        file.as_file().write_all_at(magic, at).expect("writes");
        file
    }

    #[test]
    fn a_disk_is_known_by_its_superblock() {
        let erofs = image(1024, &[0xe2, 0xe1, 0xf5, 0xe0]);
        let ext4 = image(1080, &[0x53, 0xef]);
        let blank = image(0, &[]);
        assert!(matches!(content(erofs.path()), Ok(Content::Erofs)));
        assert!(matches!(content(ext4.path()), Ok(Content::Ext4)));
        assert!(matches!(content(blank.path()), Ok(Content::Other)));
    }
}

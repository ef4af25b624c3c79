//! Copies of sparse files that read and write data extents only.

use crate::StorageError;
use leapbox_errors::FileError;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes that are copied at a time where the kernel cannot copy between the two files itself.
const CHUNK: usize = 1 << 20;

/// Copies `source` to the new file `target` (mode 0600): by reference where the file system can, else extent by extent,
/// so that holes stay holes. Blocking.
pub fn copy_sparse(source: &Path, target: &Path) -> Result<(), StorageError> {
    let from = File::open(source).map_err(FileError::of("opening", source))?;
    let to = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(target)
        .map_err(FileError::of("creating", target))?;
    if reflink(&from, &to) {
        return Ok(());
    }
    let length = from.metadata().map_err(FileError::of("reading the size of", source))?.len();
    // Sized first: a hole at the end has no extent whose copy would extend the file.
    to.set_len(length).map_err(FileError::of("sizing", target))?;
    Ok(copy_data(&from, &to).map_err(FileError::of("copying to", target))?)
}

/// Shares all of `from`'s extents with `to`, by reference. False if that fails for whatever reason, most often because
/// the file system (ext4, tmpfs) has no shared extents: the copy that is tried then meets a real fault again and names
/// it.
#[allow(unsafe_code)]
fn reflink(from: &File, to: &File) -> bool {
    // SAFETY: FICLONE takes a file descriptor by value; both stay open over the call.
    unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) == 0 }
}

/// Copies every data extent of `from` to the same place in `to`, which must be as long already. Blocking.
pub fn copy_data(from: &File, to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    let mut position = 0;
    while let Some((start, end)) = next_extent(from, position, length)? {
        copy_range(from, to, start, end)?;
        position = end;
    }
    Ok(())
}

/// The next extent of data at or after `position`, as `[start, end)` in bytes; none if there is no more. A file system
/// that does not know holes says that the whole file is data (lseek(2)).
pub(crate) fn next_extent(file: &File, position: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if position >= length {
        return Ok(None);
    }
    let seek = |offset: u64, whence| lseek(file.as_fd(), offset as i64, whence).map(|at| at as u64);
    let start = match seek(position, Whence::SeekData) {
        Ok(start) => start,
        // lseek(2)'s answer if nothing but a hole follows.
        Err(Errno::ENXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    Ok(Some((start, seek(start, Whence::SeekHole)?)))
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let mut position = start;
    while position < end {
        let (mut source, mut target) = (position as i64, position as i64);
        let wanted = usize::try_from(end - position).unwrap_or(usize::MAX);
        match nix::fcntl::copy_file_range(from.as_fd(), Some(&mut source), to.as_fd(), Some(&mut target), wanted) {
            // The source has become shorter. Without this, the loop would not end.
            Ok(0) => return Ok(()),
            Ok(copied) => position += copied as u64,
            // Two file systems, or one that does not support the call (tmpfs and so a memfd, into which the QEMU driver
            // copies a base's RAM).
            Err(Errno::EXDEV | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                return copy_through_memory(from, to, position, end);
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn copy_through_memory(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut position = start;
    while position < end {
        let wanted = CHUNK.min(usize::try_from(end - position).unwrap_or(CHUNK));
        let read = from.read_at(&mut buffer[..wanted], position)?;
        if read == 0 {
            return Ok(());
        }
        to.write_all_at(&buffer[..read], position)?;
        position += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_sparse_copy_has_the_same_bytes_and_stays_sparse() {
        let dir = tempfile::tempdir().expect("a folder");
        let (source, target) = (dir.path().join("a"), dir.path().join("b"));
        let file = File::create(&source).expect("a file");
        file.set_len(1 << 30).expect("sized");
        file.write_all_at(b"start", 0).expect("written");
        file.write_all_at(&[7; 100_000], 300 << 20).expect("written");
        file.write_all_at(b"end", (1 << 30) - 3).expect("written");

        copy_sparse(&source, &target).expect("copied");

        let copy = File::open(&target).expect("opened");
        let meta = copy.metadata().expect("metadata");
        assert_eq!(meta.len(), 1 << 30);
        assert!(meta.blocks() * 512 < 4 << 20, "{} bytes on disk", meta.blocks() * 512);
        let mut bytes = [0; 100_000];
        copy.read_exact_at(&mut bytes, 300 << 20).expect("read");
        assert!(bytes.iter().all(|b| *b == 7));
        let mut end = [0; 3];
        copy.read_exact_at(&mut end, (1 << 30) - 3).expect("read");
        assert_eq!(&end, b"end");
    }

    #[test]
    fn a_copy_never_overwrites() {
        let dir = tempfile::tempdir().expect("a folder");
        let (source, target) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&source, b"new").expect("written");
        std::fs::write(&target, b"old").expect("written");
        assert!(copy_sparse(&source, &target).is_err());
        assert_eq!(std::fs::read(&target).expect("read"), b"old");
    }
}

//! Reads a sandbox's disk as runs and writes runs into a new disk. Holes and blocks of zeroes are left out.

use crate::StorageError;
use crate::extents::next_extent;
use crate::run::{RUN_MAX, Run, Runs};
use leapbox_errors::FileError;
use nix::libc::O_NOFOLLOW;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// The unit in which data is kept or left out: a block of ext4.
const BLOCK: usize = 4096;
const ZEROES: [u8; BLOCK] = [0; BLOCK];

/// Returns the data of `file`, read lazily: no holes, and no blocks of written zeroes. The caller makes sure that
/// nobody writes the file meanwhile.
pub fn disk_runs(file: File) -> Runs {
    Box::new(DiskRuns { file, position: 0, end: 0, chunk: Vec::new(), at: 0, chunk_offset: 0, done: false })
}

struct DiskRuns {
    file: File,
    /// The next byte to be read, and the end of the extent that contains it.
    position: u64,
    end: u64,
    /// Bytes that were read at `chunk_offset` of the file, of which the first `at` have been turned into runs.
    chunk: Vec<u8>,
    chunk_offset: u64,
    at: usize,
    done: bool,
}

impl DiskRuns {
    fn read(&mut self) -> io::Result<Option<Run>> {
        loop {
            if let Some(run) = self.next_of_chunk() {
                return Ok(Some(run));
            }
            if !self.read_chunk()? {
                return Ok(None);
            }
        }
    }

    /// The next blocks of the chunk that are not zero, as one run.
    fn next_of_chunk(&mut self) -> Option<Run> {
        // Written zeroes (a file that the guest has overwritten, a file system that fills its extents) would be stored,
        // and would take up space again after a wake. Reading them as zeroes from a hole is the same to the guest.
        let zero = |block: &[u8]| *block == ZEROES[..block.len()];
        let skipped = self.chunk[self.at..].chunks(BLOCK).take_while(|block| zero(block)).map(<[u8]>::len);
        let start = self.at + skipped.sum::<usize>();
        let data = self.chunk[start..].chunks(BLOCK).take_while(|block| !zero(block)).map(<[u8]>::len);
        let end = start + data.sum::<usize>();
        self.at = end;
        let bytes = self.chunk.get(start..end).filter(|bytes| !bytes.is_empty())?.to_vec();
        Some(Run { offset: self.chunk_offset + start as u64, bytes })
    }

    /// Reads the next piece of data; false at the end of the file.
    fn read_chunk(&mut self) -> io::Result<bool> {
        if self.position >= self.end {
            let length = self.file.metadata()?.len();
            let Some((start, end)) = next_extent(&self.file, self.position, length)? else {
                return Ok(false);
            };
            (self.position, self.end) = (start, end);
        }
        // A chunk ends at a multiple of the longest run at the latest: a run lies within a chunk, and an extent may be
        // as long as the disk.
        let stop = self.end.min((self.position / RUN_MAX as u64 + 1) * RUN_MAX as u64);
        self.chunk.resize((stop - self.position) as usize, 0);
        self.file.read_exact_at(&mut self.chunk, self.position)?;
        (self.chunk_offset, self.at) = (self.position, 0);
        self.position = stop;
        Ok(true)
    }
}

impl Iterator for DiskRuns {
    type Item = io::Result<Run>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let run = self.read();
        self.done = !matches!(run, Ok(Some(_)));
        run.transpose()
    }
}

/// Creates the sparse file `path` (mode 0600) of `size` bytes with this data in it. If writing fails, the file is
/// removed. Blocking. Nothing is synced, because a machine does not outlive a failure of its host.
pub fn write_disk(path: &Path, size: u64, runs: Runs) -> Result<(), StorageError> {
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(O_NOFOLLOW)
        .open(path)
        .map_err(FileError::of("creating", path))?;
    let written = fill(&file, size, runs).map_err(FileError::of("writing", path));
    if written.is_err() {
        std::fs::remove_file(path).map_err(FileError::of("removing", path))?;
    }
    Ok(written?)
}

fn fill(file: &File, size: u64, runs: Runs) -> io::Result<()> {
    file.set_len(size)?;
    for run in runs {
        let run = run?;
        // A write beyond the end would extend the file, and the guest would see a disk of another size.
        if run.end().is_none_or(|end| end > size) {
            let (length, offset) = (run.bytes.len(), run.offset);
            let text = format!("{length} bytes at {offset} lie outside a disk of {size} bytes");
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        file.write_all_at(&run.bytes, run.offset)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::MetadataExt;

    fn file_of(size: u64, data: &[(u64, Vec<u8>)]) -> File {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(size).expect("sized");
        for (offset, bytes) in data {
            file.write_all_at(bytes, *offset).expect("written");
        }
        file
    }

    fn runs_of(file: File) -> Vec<Run> {
        disk_runs(file).collect::<io::Result<_>>().expect("read")
    }

    #[test]
    fn only_blocks_with_data_become_runs() {
        let block = |byte: u8| vec![byte; BLOCK];
        let data = [(0, vec![0; 64 << 10]), (20_480, block(1)), (24_576, block(2)), (1 << 40, b"far".to_vec())];
        let runs = runs_of(file_of((1 << 40) + 3, &data));
        let places: Vec<_> = runs.iter().map(|run| (run.offset, run.bytes.len())).collect();
        assert_eq!(places, [(20_480, 2 * BLOCK), (1 << 40, 3)]);
        assert_eq!(runs_of(file_of(10 << 30, &[])), []);
        assert_eq!(runs_of(file_of(0, &[])), []);
    }

    #[test]
    fn no_run_is_longer_than_one_mebibyte() {
        let runs = runs_of(file_of(8 << 20, &[(4096, vec![7; 3 << 20])]));
        assert!(runs.iter().all(|run| run.bytes.len() <= RUN_MAX), "{runs:?}");
        assert_eq!(runs.iter().map(|run| run.bytes.len()).sum::<usize>(), 3 << 20);
    }

    #[test]
    fn a_run_outside_the_disk_and_an_error_of_the_source_leave_no_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("disk");
        let run = |offset, bytes: &[u8]| Ok(Run { offset, bytes: bytes.to_vec() });
        for bad in [run(4090, b"sevenby"), run(u64::MAX, b"x"), Err(io::Error::other("unreadable"))] {
            let error = write_disk(&path, 4096, Box::new([run(0, b"fine"), bad].into_iter())).expect_err("refused");
            assert!(matches!(&error, StorageError::File(file) if file.step == "writing"), "{error}");
            assert!(!path.exists());
        }
        std::fs::write(&path, b"somebody's").expect("written");
        assert!(write_disk(&path, 4096, disk_runs(file_of(4096, &[]))).is_err(), "nothing is overwritten");
        assert_eq!(std::fs::read(&path).expect("read"), b"somebody's");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_disk_comes_back_as_it_was_and_stays_sparse(
            data in proptest::collection::vec((0_u64..16 << 20, proptest::collection::vec(any::<u8>(), 1..20_000)), 0..8),
        ) {
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join("disk");
            let size = 17 << 20;
            let source = file_of(size, &data);
            write_disk(&path, size, disk_runs(source.try_clone().expect("another descriptor"))).expect("written");
            let mut expected = vec![0; size as usize];
            source.read_exact_at(&mut expected, 0).expect("read");
            prop_assert!(std::fs::read(&path).expect("read") == expected);
            let stored = std::fs::metadata(&path).expect("there").blocks() * 512;
            prop_assert!(stored <= 8 * 32_768, "{} bytes on disk", stored);
        }
    }
}

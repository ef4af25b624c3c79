//! Checksums of sparse files, which depend on the bytes that a reader sees and not on how they are stored.
//!
//! ```text
//! file    │ chunk (1 MiB)                      │ chunk: zeroes │ chunk …
//! pages   │ data │ zeroes │ hole │ data │ hole │      -        │
//! hashed  │ which pages (256 bits) ‖ data data │   no entry    │
//! ```
//!
//! Holes are not read, and a page of written zeroes counts as a hole, because a copy may turn one into the other. Where
//! data lies is part of the sum: the bits say it of a page, and a chunk's sum is kept under the chunk's offset. The
//! hash is BLAKE3, which is cryptographic and several times as fast as SHA-256 on a CPU without instructions for that.
//! Called by `sealed`.

use crate::extents::next_extent;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of a file that have one checksum: the unit in which damage is located.
pub(crate) const CHUNK: u64 = 1 << 20;
/// The unit that counts as data or as a hole: a page of guest memory, a block of most file systems.
const PAGE: u64 = 4096;
const ZEROES: [u8; PAGE as usize] = [0; PAGE as usize];

/// The checksum (hexadecimal BLAKE3) of every chunk that is not all zeroes, by its offset in bytes.
pub(crate) type Checksums = BTreeMap<u64, String>;

/// Reads all data of `file` and returns its checksums. Blocking.
pub(crate) fn checksums(file: &File) -> io::Result<Checksums> {
    let length = file.metadata()?.len();
    let mut sums = Checksums::new();
    let mut chunk = Chunk::default();
    let mut position = 0;
    while let Some((start, end)) = next_extent(file, position, length)? {
        // Extents are rounded to whole pages, because those of a file system with smaller blocks may begin and end
        // within one. A page that two extents share is read once.
        let mut at = position.max(start / PAGE * PAGE);
        position = end.next_multiple_of(PAGE);
        while at < position {
            if at / CHUNK * CHUNK != chunk.offset {
                chunk.finish(&mut sums);
                chunk.begin(at / CHUNK * CHUNK);
            }
            let stop = position.min(chunk.offset + CHUNK);
            chunk.read(file, at, stop)?;
            at = stop;
        }
    }
    chunk.finish(&mut sums);
    Ok(sums)
}

/// The offset in bytes of the first chunk in which the two differ.
pub(crate) fn first_difference(a: &Checksums, b: &Checksums) -> Option<u64> {
    a.keys().chain(b.keys()).filter(|offset| a.get(offset) != b.get(offset)).min().copied()
}

/// The chunk that is being read: a bit for every page that is not all zeroes, and those pages one after the other.
#[derive(Default)]
struct Chunk {
    offset: u64,
    present: [u8; (CHUNK / PAGE / 8) as usize],
    pages: Vec<u8>,
}

impl Chunk {
    fn begin(&mut self, offset: u64) {
        self.offset = offset;
        self.present.fill(0);
        self.pages.clear();
    }

    /// Adds the pages of `[start, stop)`, which lies in this chunk and after what was added before.
    fn read(&mut self, file: &File, start: u64, stop: u64) -> io::Result<()> {
        let begin = self.pages.len();
        self.pages.resize(begin + (stop - start) as usize, 0);
        read_until_end(file, &mut self.pages[begin..], start)?;
        let mut kept = begin;
        for (page, at) in (begin..self.pages.len()).step_by(PAGE as usize).enumerate() {
            let bytes = at..at + PAGE as usize;
            if self.pages[bytes.clone()] == ZEROES {
                continue;
            }
            let number = (start - self.offset) / PAGE + page as u64;
            self.present[(number / 8) as usize] |= 1 << (number % 8);
            self.pages.copy_within(bytes, kept);
            kept += PAGE as usize;
        }
        self.pages.truncate(kept);
        Ok(())
    }

    fn finish(&self, sums: &mut Checksums) {
        // A chunk of zeroes has no entry, so that it is equal to one that is a hole and was never read.
        if self.pages.is_empty() {
            return;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.present).update(&self.pages);
        sums.insert(self.offset, hasher.finalize().to_string());
    }
}

/// Fills `buffer` from `offset` on. Bytes of it beyond the end of the file stay as they are, which are zeroes here: a
/// last page that is not whole is hashed as if it were padded.
fn read_until_end(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => return Ok(()),
            Ok(read) => done += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn file_of(length: u64, data: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(length).expect("sized");
        for (offset, bytes) in data {
            file.write_all_at(bytes, *offset).expect("written");
        }
        file
    }

    fn sums_of(length: u64, data: &[(u64, &[u8])]) -> Checksums {
        checksums(&file_of(length, data)).expect("read")
    }

    #[test]
    fn written_zeroes_count_as_a_hole() {
        let sparse = file_of(8 << 20, &[(3 << 20, b"data")]);
        let full = file_of(8 << 20, &[(0, &vec![0; 8 << 20]), (3 << 20, b"data")]);
        assert!(full.metadata().expect("metadata").blocks() > sparse.metadata().expect("metadata").blocks());
        let sums = checksums(&sparse).expect("read");
        assert_eq!(sums, checksums(&full).expect("read"));
        assert_eq!(sums.keys().copied().collect::<Vec<_>>(), [3 << 20]);
    }

    #[test]
    fn the_place_of_data_is_part_of_the_sum() {
        let here = sums_of(4 << 20, &[(0, b"data")]);
        assert_ne!(here, sums_of(4 << 20, &[(PAGE, b"data")]), "another page");
        assert_ne!(here, sums_of(4 << 20, &[(CHUNK, b"data")]), "another chunk");
        assert_ne!(here, sums_of(4 << 20, &[(1, b"data")]), "another byte");
    }

    #[test]
    fn a_last_page_that_is_not_whole_counts() {
        let length = 2 * CHUNK + 5;
        let sums = sums_of(length, &[(length - 1, b"x")]);
        assert_eq!(first_difference(&sums, &sums_of(length, &[(length - 1, b"y")])), Some(2 * CHUNK));
        assert_eq!(first_difference(&sums, &sums_of(length, &[])), Some(2 * CHUNK));
        assert_eq!(first_difference(&sums, &sums), None);
    }

    #[test]
    fn an_empty_file_has_no_sums() {
        assert!(sums_of(0, &[]).is_empty());
    }
}

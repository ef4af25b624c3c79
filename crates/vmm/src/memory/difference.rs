//! Finds the difference of a machine's memory to its base, and reads it run by run while it is stored.
//! [`Machine::snapshot_diff`](crate::Machine::snapshot_diff) calls it.

use super::inherited_pages::InheritedPages;
use super::mapping::{Mapping, Piece, Proc};
use super::overlay::OverlaidMemory;
use super::pages::{runs, written};
use super::ranges::minus;
use crate::blocking::blocking;
use crate::error::VmmError;
use crate::shape::Shape;
use leapbox_errors::FileError;
use leapbox_storage::{RUN_MAX, Run, Runs};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Finds the difference of the paused `process` to the base from which it was restored. Only the places of the pages
/// are found here; their bytes are read while the runs are consumed, and until then the machine must stay paused. The
/// inherited pages of an `overlaid` memory are part of the difference.
///
/// The runs hold the process's memory open, never that of another process with its number. If the process dies or
/// unmaps its memory meanwhile, they end with an error.
pub(crate) async fn difference(
    process: Proc,
    mapping: Mapping,
    shape: Shape,
    overlaid: Option<OverlaidMemory>,
) -> Result<Runs, VmmError> {
    let find = move || Difference::find(process, mapping, shape.memory_bytes(), overlaid);
    blocking("looking for the difference of a memory", find).await.map(|found| Box::new(found) as Runs)
}

/// The iterator over the difference: it reads one part after the other.
struct Difference {
    process: Proc,
    memory: File,
    parts: std::vec::IntoIter<Part>,
}

/// Bytes that become one run.
struct Part {
    source: Source,
    /// The position of the first byte in the source.
    at: u64,
    /// The position of the first byte in the guest's RAM.
    offset: u64,
    /// The number of bytes, at most [`RUN_MAX`].
    length: usize,
}

/// The source of a part's bytes.
#[derive(Clone)]
enum Source {
    /// The process's address space: the guest has written these pages since the restore.
    Process,
    /// The file that the process has mapped as its memory: these are inherited pages that the guest has not written
    /// since the restore.
    OverlaidMemory(Arc<File>),
}

impl Difference {
    fn find(process: Proc, mapping: Mapping, bytes: u64, overlaid: Option<OverlaidMemory>) -> Result<Self, VmmError> {
        let pieces = process.ram(mapping, bytes)?;
        let written_runs = runs(&process, &pieces, written)?;
        let of_process = |run: &Piece| split(Source::Process, run.address, run.offset, run.length);
        let mut parts: Vec<Part> = written_runs.iter().flat_map(of_process).collect();
        if let Some(overlaid) = overlaid {
            // The file's pages are not anonymous, so the page tables do not show that they differ from the base.
            parts.extend(inherited_parts(&overlaid, bytes, &written_runs)?);
            parts.sort_unstable_by_key(|part| part.offset);
        }
        let memory = process.memory()?;
        Ok(Self { process, memory, parts: parts.into_iter() })
    }

    fn read(&self, part: &Part) -> io::Result<Run> {
        let mut bytes = vec![0; part.length];
        match &part.source {
            Source::OverlaidMemory(file) => file.read_exact_at(&mut bytes, part.at)?,
            Source::Process => {
                let read = self.memory.read_exact_at(&mut bytes, part.at);
                read.map_err(|source| io::Error::other(self.process.failed("reading the memory", source)))?;
            }
        }
        Ok(Run { offset: part.offset, bytes })
    }
}

impl Iterator for Difference {
    type Item = io::Result<Run>;

    fn next(&mut self) -> Option<Self::Item> {
        let part = self.parts.next()?;
        let read = self.read(&part);
        // An error is the last item: a difference with a gap would restore a machine with wrong memory.
        if read.is_err() {
            self.parts = Vec::new().into_iter();
        }
        Some(read)
    }
}

/// The inherited pages of an overlaid memory, but for those that the guest has written since (`written_runs`).
fn inherited_parts(
    overlaid: &OverlaidMemory,
    bytes: u64,
    written_runs: &[Piece],
) -> Result<impl Iterator<Item = Part>, VmmError> {
    let inherited_pages = InheritedPages::load(&overlaid.inherited_pages, bytes)?;
    let opened = File::open(&overlaid.memory);
    let file = opened.map_err(FileError::of("opening", &overlaid.memory))?;
    let source = Source::OverlaidMemory(Arc::new(file));
    let written: Vec<Range<u64>> = written_runs.iter().map(|run| run.offset..run.offset + run.length).collect();
    let unwritten = minus(inherited_pages.ranges(), &written).into_iter();
    Ok(unwritten.flat_map(move |range| split(source.clone(), range.start, range.start, range.end - range.start)))
}

/// Splits `length` bytes into parts of at most [`RUN_MAX`].
fn split(source: Source, at: u64, offset: u64, length: u64) -> impl Iterator<Item = Part> {
    (0..length).step_by(RUN_MAX).map(move |done| {
        let length = (length - done).min(RUN_MAX as u64) as usize;
        Part { source: source.clone(), at: at + done, offset: offset + done, length }
    })
}

#[cfg(test)]
mod tests {
    use super::super::changes::tests::{run, runs};
    use super::super::overlay::overlay;
    use super::*;
    use crate::memory::testing::{Guest, SHAPE, contents};
    use std::collections::BTreeMap;

    const RAM: u64 = 16 << 20;

    async fn found(guest: &Guest) -> BTreeMap<u64, u8> {
        let found = difference(guest.process(), guest.mapping(), SHAPE, None).await.expect("found");
        contents(found).expect("read")
    }

    #[tokio::test]
    async fn a_difference_is_exactly_what_was_written_and_grows_with_it() {
        for mut guest in [Guest::of_file(RAM), Guest::of_memfd(RAM)] {
            guest.map(8 << 20, 8 << 20);
            guest.map(0, 8 << 20);
            assert_eq!(found(&guest).await, BTreeMap::new());
            guest.read(77);
            for (page, byte) in [(0, 1), (2047, 0), (2048, 3)] {
                guest.write(page, byte);
            }
            assert_eq!(found(&guest).await, BTreeMap::from([(0, 1), (2047, 0), (2048, 3)]));
            guest.write(2048, 4);
            guest.write(4095, 5);
            assert_eq!(found(&guest).await, BTreeMap::from([(0, 1), (2047, 0), (2048, 4), (4095, 5)]));
        }
    }

    #[tokio::test]
    async fn a_guest_that_wrote_everything_differs_everywhere_in_runs_of_a_bounded_size() {
        let mut guest = Guest::of_memfd(RAM);
        guest.map(0, RAM);
        guest.write_all(8);
        let all = difference(guest.process(), guest.mapping(), SHAPE, None).await.expect("found");
        let all: Vec<Run> = all.collect::<io::Result<_>>().expect("read");
        assert!(all.iter().all(|run| run.bytes.len() <= RUN_MAX && run.bytes.iter().all(|byte| *byte == 8)));
        assert_eq!(all.iter().map(|run| run.bytes.len() as u64).sum::<u64>(), RAM);
        assert!(all.is_sorted_by_key(|run| run.offset));
    }

    #[tokio::test]
    async fn inherited_pages_are_in_every_later_difference() {
        let base = Guest::of_file(RAM);
        let dir = tempfile::tempdir().expect("a folder");
        let (memory, inherited_pages) = (dir.path().join("memory"), dir.path().join("inherited"));
        let overlaid = || OverlaidMemory { memory: memory.clone(), inherited_pages: inherited_pages.clone() };
        let changes = runs(vec![run(3, 1, 0), run(10, 256, 7), run(4095, 1, 9)]);
        let inherited = overlay(base.base(), changes, RAM, &memory).expect("overlaid");
        inherited.save(&inherited_pages).expect("saved");

        let mut guest = Guest::of(&memory);
        guest.map(0, RAM);
        for (page, byte) in [(11, 1), (12, 2), (400, 3), (4095, 4)] {
            guest.write(page, byte);
        }
        guest.read(10);
        let mut expected: BTreeMap<u64, u8> = (10..266).map(|page| (page, 7)).collect();
        expected.extend([(3, 0), (11, 1), (12, 2), (400, 3), (4095, 4)]);
        let found = difference(guest.process(), guest.mapping(), SHAPE, Some(overlaid())).await.expect("found");
        assert_eq!(contents(found).expect("read"), expected);

        std::fs::write(&inherited_pages, "").expect("written");
        let refused = difference(guest.process(), guest.mapping(), SHAPE, Some(overlaid())).await.err();
        assert!(matches!(refused, Some(VmmError::InheritedPages { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn a_mapping_that_is_short_is_refused() {
        let mut guest = Guest::of_memfd(RAM);
        guest.map(0, RAM / 2);
        let refused = difference(guest.process(), guest.mapping(), SHAPE, None).await.err();
        assert!(matches!(refused, Some(VmmError::Mapping { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn a_process_that_dies_meanwhile_is_an_error_and_the_end() {
        let mut guest = Guest::of_memfd(RAM);
        guest.map(0, RAM);
        guest.write_all(8);
        let (process, mapping) = (guest.process(), guest.mapping());
        let mut reading = difference(guest.process(), mapping, SHAPE, None).await.expect("found");
        assert!(reading.next().is_some_and(|first| first.is_ok()));
        drop(guest);
        let told = reading.next().expect("not the end").expect_err("it is gone").to_string();
        assert!(told.contains("is gone"), "{told}");
        assert!(reading.next().is_none());
        let told = difference(process, mapping, SHAPE, None).await.err();
        assert!(matches!(told, Some(VmmError::NotAlive { .. })), "{told:?}");
    }

    #[tokio::test]
    async fn a_ram_that_is_taken_away_meanwhile_is_an_error() {
        let mut guest = Guest::of_memfd(RAM);
        guest.map(0, RAM);
        guest.write_all(8);
        let mut reading = difference(guest.process(), guest.mapping(), SHAPE, None).await.expect("found");
        assert!(reading.next().is_some_and(|first| first.is_ok()));
        guest.unmap(0);
        assert!(reading.next().is_some_and(|next| next.is_err()));
        assert!(reading.next().is_none());
    }
}

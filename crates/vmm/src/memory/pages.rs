//! Finds the pages of a guest's RAM that its VMM has in its page tables, and tells written ones from read ones.

use super::PAGE;
use super::mapping::{Piece, Proc};
use crate::error::VmmError;
use std::os::unix::fs::FileExt;

// Bits of an entry in /proc/PID/pagemap (proc_pid_pagemap(5)). Unlike the page's frame number they can be read with no
// more privilege than reading the process's memory takes.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// The page is of a file or shared; if clear, it is anonymous.
const OF_A_FILE: u64 = 1 << 61;

/// The size of an entry in bytes.
const ENTRY: usize = 8;
/// The number of entries that are compared at once: as many as a page table of the processor has, for 2 MiB of RAM.
const TABLE: usize = 512;
/// The number of entries that are read at once: 512 KiB of them, for 256 MiB of RAM.
const ENTRIES: u64 = 64 * 1024;

/// Whether the guest has written the page since the RAM was mapped.
pub(super) fn written(entry: u64) -> bool {
    // A write to a copy-on-write mapping makes the page anonymous. It still is after the kernel has swapped it out.
    entry & (PRESENT | SWAPPED) != 0 && entry & OF_A_FILE == 0
}

/// Whether the guest has read or written the page, or one beside it: the kernel maps pages of the page cache around a
/// fault as well.
pub(super) fn touched(entry: u64) -> bool {
    entry & (PRESENT | SWAPPED) != 0
}

/// Lists the runs of adjacent pages in `pieces` whose entry is `wanted`; at most one for every second page.
pub(super) fn runs(process: &Proc, pieces: &[Piece], wanted: fn(u64) -> bool) -> Result<Vec<Piece>, VmmError> {
    let step = "reading its page map";
    let pagemap = process.file("pagemap", step)?;
    let mut found = Vec::new();
    let mut buffer = vec![0; ENTRIES as usize * ENTRY];
    for piece in pieces {
        let pages = piece.length / PAGE;
        let mut open = None;
        for first in (0..pages).step_by(ENTRIES as usize) {
            let entries = &mut buffer[..ENTRIES.min(pages - first) as usize * ENTRY];
            let position = (piece.address / PAGE + first) * ENTRY as u64;
            pagemap.read_exact_at(entries, position).map_err(|source| process.failed(step, source))?;
            for (page, entry) in distinct_entries(first, entries) {
                match (wanted(entry), open) {
                    (true, None) => open = Some(page),
                    (false, Some(start)) => {
                        found.push(part(piece, start, page));
                        open = None;
                    }
                    (true, Some(_)) | (false, None) => {}
                }
            }
        }
        found.extend(open.map(|start| part(piece, start, pages)));
    }
    Ok(found)
}

/// Pairs the entries with their pages, of which `first` is the first. Of a table whose entries are all the same it
/// yields only the first entry, which begins or continues a run just like the rest.
fn distinct_entries(first: u64, entries: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    let tables = (first..).step_by(TABLE).zip(entries.chunks(TABLE * ENTRY));
    tables.flat_map(|(first, table)| {
        // Most of a large RAM was never touched, and one comparison of 4 KiB is quicker than 512 of an entry. That each
        // entry equals the one before it means that all are equal.
        let same = table[ENTRY..] == table[..table.len() - ENTRY];
        let looked_at = if same { &table[..ENTRY] } else { table };
        (first..).zip(looked_at.as_chunks::<ENTRY>().0.iter().map(|entry| u64::from_ne_bytes(*entry)))
    })
}

/// Returns the pages `start..end` of a piece.
fn part(piece: &Piece, start: u64, end: u64) -> Piece {
    let (skipped, length) = (start * PAGE, (end - start) * PAGE);
    Piece { address: piece.address + skipped, offset: piece.offset + skipped, length }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::Guest;

    const RAM: u64 = 4 << 20;

    fn found(guest: &Guest, wanted: fn(u64) -> bool) -> Vec<u64> {
        let process = Proc::open(guest.pid()).expect("alive");
        let pieces = process.ram(guest.mapping(), RAM).expect("all there");
        let runs = runs(&process, &pieces, wanted).expect("read");
        runs.iter().flat_map(|run| run.offset / PAGE..(run.offset + run.length) / PAGE).collect()
    }

    #[test]
    fn what_was_written_is_told_from_what_was_only_read() {
        for mut guest in [Guest::of_file(RAM), Guest::of_memfd(RAM)] {
            guest.map(2 << 20, 2 << 20);
            guest.map(0, 2 << 20);
            assert!(found(&guest, written).is_empty(), "nothing was touched");
            guest.read(300);
            for page in [0, 1, 2, 511, 512, 1023] {
                guest.write(page, 7);
            }
            assert_eq!(found(&guest, written), [0, 1, 2, 511, 512, 1023]);
            assert!(found(&guest, touched).contains(&300));
        }
    }

    #[test]
    fn entries_that_are_all_the_same_are_told_once_and_every_change_is() {
        let entries = |pages: &[u64], length: u64| -> Vec<u8> {
            (0..length).flat_map(|page| u64::from(pages.contains(&page)).to_ne_bytes()).collect()
        };
        let told = |pages: &[u64], length| distinct_entries(1000, &entries(pages, length)).collect::<Vec<_>>();
        assert_eq!(told(&[], 1100), [(1000, 0), (1512, 0), (2024, 0)]);
        assert_eq!(told(&[1024], 1025), [(1000, 0), (1512, 0), (2024, 1)]);
        let second: Vec<u64> = (512..1024).collect();
        assert_eq!(told(&second, 1025), [(1000, 0), (1512, 1), (2024, 0)]);
        let one_differs = told(&[511], 1024);
        assert_eq!((one_differs.len(), one_differs[511], one_differs[512]), (513, (1511, 1), (1512, 0)));
    }
}

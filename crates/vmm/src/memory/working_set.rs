//! Working sets: the parts of a snapshot's memory that its clones touch when they start. A host whose page cache is
//! cold reads them in a few large requests instead of one page fault at a time.
//!
//! ```text
//! first clones:  record ─┐
//!                load  ──┴─ union ──► save, until RECORDED_WAKES are in it
//! later clones:  load ──► prefetch, while the VMM starts
//! ```
//!
//! A set that is missing or wrong only costs time. Called by the Firecracker driver, whose clones map the snapshot's
//! file.

use super::mapping::{Mapping, Proc};
use super::pages::{runs, touched};
use super::ranges;
use crate::blocking::blocking;
use crate::error::VmmError;
use crate::shape::Shape;
use leapbox_errors::{FileError, chain};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of clones that a set is made from. The pages that a guest touches in its first second differ little from
/// one clone to the next.
const RECORDED_WAKES: u32 = 3;
/// Gaps of up to this many bytes are read as well: that costs less than another request to the disk.
const GAP: u64 = 64 << 10;
/// The first line of a stored set, with the version of its format.
const HEADER: &str = "leapbox working set 1";
/// The longest stored set that is read, in bytes: 8 GiB touched every 128 KiB are 65,536 lines of at most 22
/// characters.
const STORED_MAX: u64 = 2 << 20;

/// The most that is read ahead, in bytes. A sandbox that touches all of its memory while it is recorded must not slow
/// down every later clone of the base; its set is discarded.
const READ_AHEAD_MAX: u64 = 256 << 20;

/// A set of ranges of a snapshot's memory file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkingSet {
    /// The number of clones it was recorded from.
    wakes: u32,
    /// In ascending order, and apart by more than [`GAP`] bytes.
    ranges: Vec<Range<u64>>,
}

/// Numbers the temporary files of sets that are being written, so that no two writers share one.
static SAVED: AtomicU64 = AtomicU64::new(0);

impl WorkingSet {
    /// Records the pages of `mapping` that process `pid` has touched until now.
    pub async fn record(pid: i32, mapping: Mapping, shape: Shape) -> Result<Self, VmmError> {
        blocking("recording a working set", move || {
            let process = Proc::open(pid)?;
            let pieces = process.ram(mapping, shape.memory_bytes())?;
            let runs = runs(&process, &pieces, touched)?;
            Ok(Self { wakes: 1, ranges: merge(runs.iter().map(|run| run.offset..run.offset + run.length)) })
        })
        .await
    }

    /// Whether it was recorded from enough clones.
    pub fn is_complete(&self) -> bool {
        self.wakes >= RECORDED_WAKES
    }

    /// Whether it is small enough to be read ahead.
    pub fn is_within_limit(&self) -> bool {
        self.ranges.iter().map(|range| range.end - range.start).sum::<u64>() <= READ_AHEAD_MAX
    }

    /// Joins two sets, and their numbers of clones.
    pub fn union(&self, other: &Self) -> Self {
        let mut both = [self.ranges.as_slice(), &other.ranges].concat();
        both.sort_unstable_by_key(|range| range.start);
        Self { wakes: self.wakes.saturating_add(other.wakes), ranges: merge(both.into_iter()) }
    }

    /// Reads the set that [`WorkingSet::save`] has written for a memory of `shape`; `None` if there is none. Blocking.
    pub fn load(path: &Path, shape: Shape) -> Result<Option<Self>, VmmError> {
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(STORED_MAX + 1).read_to_string(&mut text));
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FileError::of("reading", path)(error).into()),
            Ok(_) => {
                let set = parse(&text, shape.memory_bytes());
                set.map(Some).ok_or_else(|| VmmError::WorkingSet { path: path.to_path_buf() })
            }
        }
    }

    /// Writes the set to `path` (mode 0600), which it replaces. Blocking.
    pub fn save(&self, path: &Path) -> Result<(), VmmError> {
        // By a rename, so that another restore never reads half a set. Not synced, as it can be recorded again.
        let mut text = format!("{HEADER}\n{}\n", self.wakes);
        ranges::print(&mut text, &self.ranges);
        let unfinished = path.with_extension(format!("new-{}", SAVED.fetch_add(1, Ordering::Relaxed)));
        let made = File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
        let mut made = made.map_err(FileError::of("creating a new version of", path))?;
        std::io::Write::write_all(&mut made, text.as_bytes())
            .map_err(FileError::of("writing a new version of", path))?;
        Ok(std::fs::rename(&unfinished, path).map_err(FileError::of("replacing", path))?)
    }

    /// Has the kernel read the set's parts of `file` into the page cache. Blocking while the disk's queue is full.
    pub fn prefetch(&self, file: &File) {
        for range in &self.ranges {
            let (start, length) = (range.start as i64, (range.end - range.start) as i64);
            // A file system that does not support the advice is no worse off than without it.
            if let Err(error) = posix_fadvise(file, start, length, PosixFadviseAdvice::POSIX_FADV_WILLNEED) {
                tracing::debug!(error = %chain(&error), "a base's working set could not be read ahead");
                return;
            }
        }
    }
}

/// Joins ranges across gaps of up to [`GAP`] bytes. They must come in ascending order of their starts.
fn merge(found: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut merged = Vec::new();
    found.for_each(|range| ranges::push(&mut merged, range, GAP));
    merged
}

/// Parses a stored set; `None` if it is damaged, or of another size or version.
fn parse(text: &str, bytes: u64) -> Option<WorkingSet> {
    if text.len() as u64 > STORED_MAX || !text.ends_with('\n') {
        return None;
    }
    let mut lines = text.lines();
    if lines.next()? != HEADER {
        return None;
    }
    let wakes = lines.next()?.parse().ok()?;
    let ranges = ranges::parse(lines, bytes)?;
    let set = WorkingSet { wakes, ranges };
    set.is_within_limit().then_some(set)
}

#[cfg(test)]
mod tests {
    use super::super::PAGE;
    use super::*;
    use crate::memory::testing::{Guest, SHAPE};

    const RAM: u64 = 16 << 20;

    fn set(wakes: u32, ranges: &[Range<u64>]) -> WorkingSet {
        WorkingSet { wakes, ranges: ranges.to_vec() }
    }

    #[tokio::test]
    async fn a_recorded_set_has_what_was_read_and_what_was_written() {
        let mut guest = Guest::of_file(RAM);
        guest.map(0, RAM);
        guest.read(10);
        guest.write(3000, 1);
        let set = WorkingSet::record(guest.pid(), guest.mapping(), SHAPE).await.expect("recorded");
        for page in [10, 3000] {
            assert!(set.ranges.iter().any(|range| range.contains(&(page * PAGE))), "{set:?}");
        }
        assert!(set.ranges.iter().map(|range| range.end - range.start).sum::<u64>() < RAM / 4, "{set:?}");
        assert!(!set.is_complete());
    }

    #[test]
    fn small_gaps_are_closed_and_large_ones_are_not() {
        let merged = merge([0..4096, 4096 + GAP..8192 + GAP, 8193 + 2 * GAP..RAM].into_iter());
        assert_eq!(merged, [0..8192 + GAP, 8193 + 2 * GAP..RAM]);
    }

    #[test]
    fn the_first_wakes_make_the_set() {
        let first = set(1, &[0..4096, 10 << 20..11 << 20]);
        let second = set(1, &[1 << 20..2 << 20, (10 << 20) + 4096..12 << 20]);
        let both = first.union(&second);
        assert_eq!(both, set(2, &[0..4096, 1 << 20..2 << 20, 10 << 20..12 << 20]));
        assert!(both.union(&first).is_complete());
    }

    #[test]
    fn a_stored_set_is_read_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("working-set");
        assert_eq!(WorkingSet::load(&path, SHAPE).expect("nothing yet"), None);
        for stored in [set(2, &[0..4096, 1 << 20..RAM]), set(3, &[])] {
            stored.save(&path).expect("saved");
            assert_eq!(WorkingSet::load(&path, SHAPE).expect("loaded"), Some(stored));
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
    }

    #[test]
    fn a_damaged_set_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("working-set");
        let too_long = format!("{HEADER}\n1\n{}", "0 4096\n".repeat(1 << 20));
        let damaged = [
            "",
            "leapbox working set 2\n1\n",
            "leapbox working set 1\n",
            "leapbox working set 1\nmany\n",
            "leapbox working set 1\n1\n0 4096\n4095 8192\n",
            "leapbox working set 1\n1\n4096 4096\n",
            "leapbox working set 1\n1\n-1 4096\n",
            "leapbox working set 1\n1\n0 16777217\n",
            "leapbox working set 1\n1\n0 4096",
            &too_long,
        ];
        for text in damaged {
            std::fs::write(&path, text).expect("written");
            let loaded = WorkingSet::load(&path, SHAPE);
            assert!(matches!(loaded, Err(VmmError::WorkingSet { .. })), "{loaded:?}");
        }
    }

    #[test]
    fn a_prefetch_fills_the_page_cache() {
        let guest = Guest::of_file(RAM);
        let file = File::open(guest.base()).expect("opened");
        file.sync_all().expect("on disk");
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("advised");
        // tmpfs has nowhere to drop its pages to; there is nothing to see then.
        if guest.cached(4 << 20) {
            return;
        }
        set(1, &[0..4096, 4 << 20..5 << 20]).prefetch(&file);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !guest.cached(4 << 20) {
            assert!(std::time::Instant::now() < deadline, "never read");
            std::thread::yield_now();
        }
        assert!(!guest.cached(12 << 20), "all of it was read");
    }
}

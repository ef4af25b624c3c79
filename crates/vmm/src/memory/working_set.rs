//! Which parts of a snapshot's memory a waking guest touches, so that a host whose page cache is cold can read them in
//! a few large requests instead of a page fault at a time.
//!
//! ```text
//! first wakes:  record ─┐
//!               load  ──┴─ and ──► save, until RECORDED_WAKES are in it
//! later wakes:  load ──► prefetch, while the VMM starts
//! ```
//!
//! It is advice: a set that is missing or wrong costs time and nothing else. Called by the Firecracker driver, whose
//! clones map the snapshot's file.

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

/// Wakes that a set is made from. What a guest touches in its first second differs little from wake to wake.
const RECORDED_WAKES: u32 = 3;
/// Gaps up to so many bytes are read, too: one request of a disk costs more than they do.
const GAP: u64 = 64 << 10;
/// First line of a stored set: what it is, and its version.
const HEADER: &str = "leapbox working set 1";
/// Longest stored set, in bytes: 8 GiB touched every 128 KiB are 65,536 lines of at most 22 characters.
const STORED_MAX: u64 = 2 << 20;

/// Most that is read ahead, in bytes: a tenant's clone that touches everything while it is looked at must not cost every
/// later one.
const MOST: u64 = 256 << 20;

/// Parts of a snapshot's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkingSet {
    /// How many wakes it was recorded in.
    wakes: u32,
    /// Bytes of the file: ascending, apart by more than [`GAP`].
    ranges: Vec<Range<u64>>,
}

/// Makes a name of its own for every set that is being written.
static SAVED: AtomicU64 = AtomicU64::new(0);

impl WorkingSet {
    /// What process `pid` has touched of `mapping` until now.
    pub async fn record(pid: i32, mapping: Mapping, shape: Shape) -> Result<Self, VmmError> {
        blocking("recording a working set", move || {
            let process = Proc::open(pid)?;
            let pieces = process.ram(mapping, shape.memory_bytes())?;
            let runs = runs(&process, &pieces, touched)?;
            Ok(Self { wakes: 1, ranges: merge(runs.iter().map(|run| run.offset..run.offset + run.length)) })
        })
        .await
    }

    /// Whether enough wakes are in it.
    pub fn is_complete(&self) -> bool {
        self.wakes >= RECORDED_WAKES
    }

    /// Whether it is small enough to be read ahead.
    pub fn is_modest(&self) -> bool {
        self.ranges.iter().map(|range| range.end - range.start).sum::<u64>() <= MOST
    }

    /// What was touched in the wakes of either.
    pub fn and(&self, other: &Self) -> Self {
        let mut both = [self.ranges.as_slice(), &other.ranges].concat();
        both.sort_unstable_by_key(|range| range.start);
        Self { wakes: self.wakes.saturating_add(other.wakes), ranges: merge(both.into_iter()) }
    }

    /// Reads what [`WorkingSet::save`] wrote for a memory of `shape`; `None` if nothing was. Blocking.
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

    /// Stores it at `path` (mode 0600), whole or not at all; of several who do at once, the last. Blocking.
    pub fn save(&self, path: &Path) -> Result<(), VmmError> {
        let mut text = format!("{HEADER}\n{}\n", self.wakes);
        ranges::print(&mut text, &self.ranges);
        let unfinished = path.with_extension(format!("new-{}", SAVED.fetch_add(1, Ordering::Relaxed)));
        let made = File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
        let mut made = made.map_err(FileError::of("creating a new version of", path))?;
        std::io::Write::write_all(&mut made, text.as_bytes())
            .map_err(FileError::of("writing a new version of", path))?;
        Ok(std::fs::rename(&unfinished, path).map_err(FileError::of("replacing", path))?)
    }

    /// Has the kernel read its parts of `file` into the page cache. Blocking, as long as the disk's queue is full.
    pub fn prefetch(&self, file: &File) {
        for range in &self.ranges {
            let (start, length) = (range.start as i64, (range.end - range.start) as i64);
            // Advice: a file system that takes none is as slow as without it.
            if let Err(error) = posix_fadvise(file, start, length, PosixFadviseAdvice::POSIX_FADV_WILLNEED) {
                tracing::debug!(error = %chain(&error), "the working set cannot be read ahead");
                return;
            }
        }
    }
}

/// Joins ranges, which come in ascending order of their starts, across gaps.
fn merge(found: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut merged = Vec::new();
    found.for_each(|range| ranges::push(&mut merged, range, GAP));
    merged
}

/// What a stored set says; `None` if it is damaged, or of another size or version.
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
    set.is_modest().then_some(set)
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
        let both = first.and(&second);
        assert_eq!(both, set(2, &[0..4096, 1 << 20..2 << 20, 10 << 20..12 << 20]));
        assert!(both.and(&first).is_complete());
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

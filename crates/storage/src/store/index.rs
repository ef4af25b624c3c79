//! What the store knows of its archives, in memory: which are here, which are in the bucket, and which nobody may
//! remove now.
//!
//! ```text
//!  begin, hold, get ─► pinned ─┐ seal                             uploaded
//!                              ▼                                     │ too many bytes here, least recently used
//!  (start: scan) ───────────► here ── released ──► upload ──► here ◄─┤
//!                              │                                     ▼
//!                              └─ remove, sweep ──► gone          evicted ── get ──► here, uploaded
//!                                                    └─► doomed: to be removed from the bucket as well
//! ```
//!
//! Nothing here is stored: a start reads it from the folder. Everything is kept by its folder's name, which is an
//! archive's id unless somebody else made the folder: such a folder is swept, too, and never uploaded. No lock is held
//! over a wait.

use leapbox_ids::ArchiveId;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Notify;

/// An archive in the folder.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Bytes of its files.
    pub bytes: u64,
    /// The bucket has all of it.
    pub uploaded: bool,
    /// The bucket may have something of it.
    pub begun: bool,
    /// Failed uploads in a row: who failed comes last.
    pub failures: u32,
    /// When it was last of use; a count, and not a time.
    pub used: u64,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<String, Entry>,
    /// How many hold it.
    pins: HashMap<String, usize>,
    /// To be removed from the bucket.
    doomed: BTreeSet<String>,
    /// What was pinned since the sweep under way began; none if there is no sweep.
    touched: Option<BTreeSet<String>>,
    clock: u64,
    /// For the names of what is being removed.
    removals: u64,
}

impl State {
    /// Whether it was pinned at any time since the sweep began. Without a sweep, everything counts as if it was.
    fn was_touched(&self, id: &str) -> bool {
        self.touched.as_ref().is_none_or(|touched| touched.contains(id))
    }
}

/// Why an archive leaves the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Somebody said so: also from the bucket, and whoever has it pinned.
    Removed,
    /// Nothing names it: also from the bucket, unless it was pinned since the sweep began.
    Swept,
    /// To make room, unless it is pinned; the bucket has it.
    Evicted,
    /// It cannot be read, and the bucket has it.
    Damaged,
}

/// Shared by the store, its writers and its pins.
pub(super) struct Index {
    state: Mutex<State>,
    /// There is a bucket.
    remote: bool,
    /// There is something to upload, to evict or to remove.
    pub work: Notify,
}

/// While it lives, no garbage collection and no eviction takes the archive.
#[must_use = "without it, garbage collection may take the archive before anything names it"]
pub struct Pin {
    index: Arc<Index>,
    id: ArchiveId,
}

impl Pin {
    /// The archive is in the folder now.
    pub(super) fn sealed(&self, bytes: u64) {
        self.index.insert(&self.id.to_string(), bytes, false);
    }

    /// Drops it, which says in a test that the archive is named by now, or may be removed.
    #[cfg(test)]
    pub(super) fn release(self) {}
}

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pin").field(&self.id.to_string()).finish()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let (name, mut state) = (self.id.to_string(), self.index.lock());
        if let Some(count) = state.pins.get_mut(&name) {
            *count -= 1;
            if *count == 0 {
                state.pins.remove(&name);
            }
        }
        drop(state);
        self.index.work.notify_one();
    }
}

impl Index {
    pub fn new(remote: bool) -> Self {
        Self { state: Mutex::default(), remote, work: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub fn pin(self: &Arc<Self>, id: &ArchiveId) -> Pin {
        let (name, mut state) = (id.to_string(), self.lock());
        *state.pins.entry(name.clone()).or_default() += 1;
        if let Some(touched) = &mut state.touched {
            touched.insert(name);
        }
        Pin { index: Arc::clone(self), id: id.clone() }
    }

    /// An archive has come into the folder: written, or fetched from the bucket.
    pub fn insert(&self, id: &str, bytes: u64, uploaded: bool) {
        self.add(id, bytes, uploaded, uploaded);
    }

    /// An archive of an earlier time was in the folder; how far its upload came is not known.
    pub fn insert_found(&self, id: &str, bytes: u64, uploaded: bool) {
        self.add(id, bytes, uploaded, true);
    }

    fn add(&self, id: &str, bytes: u64, uploaded: bool, begun: bool) {
        let mut state = self.lock();
        state.clock += 1;
        let used = state.clock;
        state.entries.insert(id.to_owned(), Entry { bytes, uploaded, begun, failures: 0, used });
    }

    pub fn contains(&self, id: &str) -> bool {
        self.lock().entries.contains_key(id)
    }

    /// Whether it is here and in the bucket.
    pub fn is_uploaded(&self, id: &str) -> bool {
        self.lock().entries.get(id).is_some_and(|entry| entry.uploaded)
    }

    /// It is not here any more, without our doing.
    pub fn forget(&self, id: &str) {
        self.lock().entries.remove(id);
    }

    /// It was of use just now.
    pub fn touch(&self, id: &str) {
        let mut state = self.lock();
        state.clock += 1;
        let used = state.clock;
        if let Some(entry) = state.entries.get_mut(id) {
            entry.used = used;
        }
    }

    /// The bucket has it, or not any more; false if it is not here, or to be removed from the bucket.
    pub fn mark_uploaded(&self, id: &str, uploaded: bool) -> bool {
        let mut state = self.lock();
        if state.doomed.contains(id) {
            return false;
        }
        let entry = state.entries.get_mut(id);
        entry.map(|entry| (entry.uploaded, entry.failures) = (uploaded, 0)).is_some()
    }

    /// From now on the bucket may have something of it; false if it is not here any more.
    pub fn begin_upload(&self, id: &str) -> bool {
        self.lock().entries.get_mut(id).map(|entry| entry.begun = true).is_some()
    }

    pub fn count_failure(&self, id: &str) {
        if let Some(entry) = self.lock().entries.get_mut(id) {
            entry.failures += 1;
        }
    }

    /// What is to be uploaded next: released, and least often in vain.
    pub fn next_upload(&self) -> Option<ArchiveId> {
        let state = self.lock();
        // What is doomed was removed under that name before, and has to be gone from the bucket first.
        let may = |id: &String| !state.pins.contains_key(id) && !state.doomed.contains(id);
        let waiting = state.entries.iter().filter(|(id, entry)| !entry.uploaded && may(id));
        let archives = waiting.filter_map(|(id, entry)| Some((id.parse().ok()?, entry)));
        archives.min_by_key(|(_, entry)| (entry.failures, entry.used)).map(|(id, _)| id)
    }

    /// What is to be evicted next, so that no more than `limit` bytes are here.
    pub fn next_eviction(&self, limit: u64) -> Option<String> {
        let state = self.lock();
        if state.entries.values().map(|entry| entry.bytes).sum::<u64>() <= limit {
            return None;
        }
        let evictable = state.entries.iter().filter(|(id, entry)| entry.uploaded && !state.pins.contains_key(*id));
        evictable.min_by_key(|(_, entry)| entry.used).map(|(id, _)| id.clone())
    }

    /// Takes `id` out of the folder: renames it away under the lock, so that nobody who finds it here after this finds
    /// a half. What is left to be removed is where the result says; none if it was not there, or pinned.
    pub fn take(&self, dir: &Path, id: &str, reason: Reason) -> io::Result<Option<PathBuf>> {
        let mut state = self.lock();
        let pinned = state.pins.contains_key(id);
        let (kept, dooms) = match reason {
            Reason::Removed => (false, true),
            Reason::Swept => (pinned || state.was_touched(id), true),
            Reason::Evicted => (pinned, false),
            Reason::Damaged => (false, false),
        };
        if kept {
            return Ok(None);
        }
        state.removals += 1;
        let away = dir.join(format!(".gone-{id}-{}", state.removals));
        let moved = match std::fs::rename(dir.join(id), &away) {
            Ok(()) => Some(away),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let entry = state.entries.remove(id);
        if dooms && self.remote && entry.is_none_or(|entry| entry.begun) {
            state.doomed.insert(id.to_owned());
            self.work.notify_one();
        }
        Ok(moved)
    }

    /// To be removed from the bucket, by the sweep under way; false if it was pinned since that began.
    pub fn doom(&self, id: &str) -> bool {
        let mut state = self.lock();
        if state.was_touched(id) {
            return false;
        }
        state.doomed.insert(id.to_owned());
        self.work.notify_one();
        true
    }

    pub fn next_doomed(&self) -> Option<String> {
        self.lock().doomed.first().cloned()
    }

    pub fn is_doomed(&self, id: &str) -> bool {
        self.lock().doomed.contains(id)
    }

    pub fn undoom(&self, id: &str) {
        self.lock().doomed.remove(id);
    }

    /// From now on, whatever is pinned is remembered. Returns the ids that are here, and whether they are uploaded.
    pub fn begin_sweep(&self) -> BTreeMap<String, bool> {
        let mut state = self.lock();
        state.touched = Some(state.pins.keys().cloned().collect());
        state.entries.iter().map(|(id, entry)| (id.clone(), entry.uploaded)).collect()
    }

    pub fn end_sweep(&self) {
        self.lock().touched = None;
    }

    /// All entries, for counting.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.values().cloned().collect()
    }
}

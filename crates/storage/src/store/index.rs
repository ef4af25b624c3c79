//! The store's index in memory: which archives are in the directory, which are in the bucket, and which are pinned.
//!
//! ```text
//!  begin, hold, get ─► pinned ─┐ seal                          uploaded, here ◄─────┐
//!                              ▼                                  │                 │
//!  (start: scan) ───────────► here ── pins dropped ──► upload ────┤ budget exceeded │ get
//!                              │                                  ▼                 │
//!                              │                               evicted ─────────────┘
//!                              └─ remove, sweep ──► removed here ──► pending_remote_delete ──► removed from the bucket
//! ```
//!
//! Nothing of it is stored: a start reads it from the directory. The keys are names of subdirectories, which are ids of
//! archives unless somebody else has created one there: that one is swept as well, but never uploaded. The lock is
//! never held across an `await`.

use leapbox_ids::ArchiveId;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Notify;

/// An archive in the directory.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Bytes of the archive's files.
    pub bytes: u64,
    /// The bucket has the whole archive.
    pub uploaded: bool,
    /// The bucket may have parts of the archive, so that a removal must reach it.
    pub upload_begun: bool,
    /// Uploads that failed in a row. Archives with fewer failures are uploaded first.
    pub failures: u32,
    /// The value of the index's `clock` at the last use.
    pub used: u64,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<String, Entry>,
    /// The number of [`Pin`]s of each archive that has some.
    pins: HashMap<String, usize>,
    /// Archives that are to be removed from the bucket.
    pending_remote_delete: BTreeSet<String>,
    /// Archives that were pinned at any time since the current sweep began; none if there is no sweep.
    pinned_since_sweep: Option<BTreeSet<String>>,
    /// Counts uses. The order of uses is all that eviction needs, and a counter does not jump as the host's clock may.
    clock: u64,
    /// Counts removals, for unique names of directories that are being removed.
    removals: u64,
}

impl State {
    /// Whether the archive was pinned since the sweep began. Without a sweep every archive counts as pinned, so that a
    /// late caller removes nothing.
    fn was_pinned_since_sweep(&self, id: &str) -> bool {
        self.pinned_since_sweep.as_ref().is_none_or(|pinned_since_sweep| pinned_since_sweep.contains(id))
    }
}

/// The reason for which an archive is removed from the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// A caller has removed it: from the bucket as well, and even if it is pinned.
    Removed,
    /// No row names it: from the bucket as well, unless it was pinned since the sweep began.
    Swept,
    /// The directory exceeds its budget, and the bucket has a copy; not if the archive is pinned.
    Evicted,
    /// The local copy is damaged, and the bucket has another.
    Damaged,
}

/// The index, shared by the store, its writers and its pins.
pub(super) struct Index {
    state: Mutex<State>,
    /// Whether there is a bucket.
    remote: bool,
    /// Notified when there may be something to upload, to evict or to remove from the bucket.
    pub work: Notify,
}

/// While a pin exists, neither garbage collection nor eviction removes its archive.
#[must_use = "without it, garbage collection may take the archive before anything names it"]
pub struct Pin {
    index: Arc<Index>,
    id: ArchiveId,
}

impl Pin {
    /// Records that the archive is in the directory now.
    pub(super) fn sealed(&self, bytes: u64) {
        self.index.insert(&self.id.to_string(), bytes, false);
    }

    /// Drops the pin. It shows in a test that the archive is named by now, or may be removed.
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
        // What was pinned is neither uploaded nor evicted, and may be now.
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
        if let Some(pinned_since_sweep) = &mut state.pinned_since_sweep {
            pinned_since_sweep.insert(name);
        }
        Pin { index: Arc::clone(self), id: id.clone() }
    }

    /// Adds an archive that was written to the directory, or fetched from the bucket (then it is `uploaded`).
    pub fn insert(&self, id: &str, bytes: u64, uploaded: bool) {
        self.add(id, bytes, uploaded, uploaded);
    }

    /// Adds an archive that a previous server has left in the directory. That server may have uploaded parts of it, so
    /// its upload counts as begun.
    pub fn insert_found(&self, id: &str, bytes: u64, uploaded: bool) {
        self.add(id, bytes, uploaded, true);
    }

    fn add(&self, id: &str, bytes: u64, uploaded: bool, upload_begun: bool) {
        let mut state = self.lock();
        state.clock += 1;
        let used = state.clock;
        state.entries.insert(id.to_owned(), Entry { bytes, uploaded, upload_begun, failures: 0, used });
    }

    pub fn contains(&self, id: &str) -> bool {
        self.lock().entries.contains_key(id)
    }

    /// Whether the archive is in the directory and the bucket has a copy.
    pub fn is_uploaded(&self, id: &str) -> bool {
        self.lock().entries.get(id).is_some_and(|entry| entry.uploaded)
    }

    /// Removes the entry of an archive whose directory somebody else has removed.
    pub fn forget(&self, id: &str) {
        self.lock().entries.remove(id);
    }

    /// Records a use, for the order of evictions.
    pub fn touch(&self, id: &str) {
        let mut state = self.lock();
        state.clock += 1;
        let used = state.clock;
        if let Some(entry) = state.entries.get_mut(id) {
            entry.used = used;
        }
    }

    /// Records that the bucket has a copy, or that it has lost it. Nothing is recorded, and the result is false, if the
    /// archive is not in the directory or is to be removed from the bucket.
    pub fn mark_uploaded(&self, id: &str, uploaded: bool) -> bool {
        let mut state = self.lock();
        // The archive was removed during its upload. If there is an entry, it is of another one that was written under
        // the same name since (a base has the same id whenever its content is), and that one is not in the bucket.
        if state.pending_remote_delete.contains(id) {
            return false;
        }
        let entry = state.entries.get_mut(id);
        entry.map(|entry| (entry.uploaded, entry.failures) = (uploaded, 0)).is_some()
    }

    /// Records that the bucket may have parts of the archive from now on; false if it is not in the directory any more.
    pub fn begin_upload(&self, id: &str) -> bool {
        self.lock().entries.get_mut(id).map(|entry| entry.upload_begun = true).is_some()
    }

    pub fn count_failure(&self, id: &str) {
        if let Some(entry) = self.lock().entries.get_mut(id) {
            entry.failures += 1;
        }
    }

    /// The archive that is to be uploaded next; none if all that may be are uploaded.
    pub fn next_upload(&self) -> Option<ArchiveId> {
        let state = self.lock();
        // A pinned archive is being written, or has no row yet and is removed again if its commit fails. One whose name
        // is in `pending_remote_delete` has a predecessor that must be gone from the bucket before.
        let may = |id: &String| !state.pins.contains_key(id) && !state.pending_remote_delete.contains(id);
        let waiting = state.entries.iter().filter(|(id, entry)| !entry.uploaded && may(id));
        let archives = waiting.filter_map(|(id, entry)| Some((id.parse().ok()?, entry)));
        // Fewest failures first, so that one archive that cannot be uploaded does not hold up all others.
        archives.min_by_key(|(_, entry)| (entry.failures, entry.used)).map(|(id, _)| id)
    }

    /// The archive that is to be evicted next, so that the directory has at most `limit` bytes; none if it has, or if
    /// nothing may be evicted. Archives that are not uploaded count as well, but stay.
    pub fn next_eviction(&self, limit: u64) -> Option<String> {
        let state = self.lock();
        if state.entries.values().map(|entry| entry.bytes).sum::<u64>() <= limit {
            return None;
        }
        let evictable = state.entries.iter().filter(|(id, entry)| entry.uploaded && !state.pins.contains_key(*id));
        evictable.min_by_key(|(_, entry)| entry.used).map(|(id, _)| id.clone())
    }

    /// Takes the archive `id` out of the directory `dir` by renaming its subdirectory. Returns the new path, whose
    /// removal is left to the caller; none if the archive was not there, or if a pin protects it.
    pub fn take(&self, dir: &Path, id: &str, reason: Reason) -> io::Result<Option<PathBuf>> {
        // Under the lock, so that no pin appears between the check and the rename. After the rename nobody can open an
        // archive of which half is removed; the removal itself, which takes long, is left to the time after the lock.
        let mut state = self.lock();
        let pinned = state.pins.contains_key(id);
        let (kept, also_remote) = match reason {
            Reason::Removed => (false, true),
            Reason::Swept => (pinned || state.was_pinned_since_sweep(id), true),
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
        // Without an entry (evicted, say) it is not known what the bucket has. Only an archive whose upload was never
        // begun needs no request.
        if also_remote && self.remote && entry.is_none_or(|entry| entry.upload_begun) {
            state.pending_remote_delete.insert(id.to_owned());
            self.work.notify_one();
        }
        Ok(moved)
    }

    /// Schedules the removal from the bucket for the current sweep; false if the archive was pinned since that began.
    pub fn schedule_remote_delete(&self, id: &str) -> bool {
        let mut state = self.lock();
        if state.was_pinned_since_sweep(id) {
            return false;
        }
        state.pending_remote_delete.insert(id.to_owned());
        self.work.notify_one();
        true
    }

    pub fn next_pending_remote_delete(&self) -> Option<String> {
        self.lock().pending_remote_delete.first().cloned()
    }

    pub fn is_pending_remote_delete(&self, id: &str) -> bool {
        self.lock().pending_remote_delete.contains(id)
    }

    pub fn finish_remote_delete(&self, id: &str) {
        self.lock().pending_remote_delete.remove(id);
    }

    /// Records every pin from now on, until [`Index::end_sweep`]. Returns the archives in the directory.
    pub fn begin_sweep(&self) -> BTreeMap<String, Entry> {
        let mut state = self.lock();
        // Existing pins count: they may be dropped, and their rows committed, after the database was asked for names.
        state.pinned_since_sweep = Some(state.pins.keys().cloned().collect());
        state.entries.clone()
    }

    pub fn end_sweep(&self) {
        self.lock().pinned_since_sweep = None;
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.values().cloned().collect()
    }
}

//! What the first clones of a snapshot touch is noted beside it, and read ahead for later clones: on a host whose page
//! cache is cold, a few large reads instead of a page fault at a time.
//!
//! The note is advice and no part of the snapshot: it is neither checked nor missed.

use crate::memory::{Mapping, WorkingSet};
use crate::spec::Snapshot;
use leapbox_errors::chain;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A clone has answered its first request by then, and does what its workload does afterwards.
const WAKE: Duration = Duration::from_secs(2);

/// What is known of each snapshot's memory.
#[derive(Debug, Default)]
pub(super) struct Prefetch {
    notes: Arc<Mutex<HashMap<PathBuf, Arc<WorkingSet>>>>,
    /// One note is written at a time.
    recording: Arc<tokio::sync::Mutex<()>>,
}

impl Prefetch {
    /// Starts reading ahead what clones of the snapshot touch, where that is known. Does not wait for it; what the
    /// page cache has already costs next to nothing.
    pub fn start(&self, snapshot: &Snapshot) {
        let (notes, note, memory, shape) =
            (Arc::clone(&self.notes), note_of(snapshot), snapshot.memory.clone(), snapshot.shape);
        tokio::task::spawn_blocking(move || {
            let known = notes.lock().get(&note).cloned();
            let set = match known {
                Some(set) => set,
                None => match WorkingSet::load(&note, shape) {
                    Ok(Some(set)) => Arc::clone(notes.lock().entry(note).or_insert(Arc::new(set))),
                    Ok(None) => return,
                    Err(error) => return tracing::warn!(error = %chain(&error), "what clones touch is not known"),
                },
            };
            if let Ok(file) = File::open(&memory) {
                set.prefetch(&file);
            }
        });
    }

    /// Forgets a snapshot that is going.
    pub fn forget(&self, snapshot: &Snapshot) {
        self.notes.lock().remove(&note_of(snapshot));
    }

    /// Notes what the clone in process `pid` has touched of `mapping` once it has been awake for a moment, unless enough clones were looked at.
    pub fn record(&self, pid: i32, mapping: Mapping, snapshot: &Arc<Snapshot>) {
        let (shape, note) = (snapshot.shape, note_of(snapshot));
        let (recording, notes) = (Arc::clone(&self.recording), Arc::clone(&self.notes));
        let snapshot = Arc::downgrade(snapshot);
        tokio::spawn(async move {
            let Ok(_turn) = recording.try_lock() else { return };
            let before = WorkingSet::load(&note, shape).unwrap_or_default();
            if before.as_ref().is_some_and(WorkingSet::is_complete) {
                return;
            }
            tokio::time::sleep(WAKE).await;
            // A clone that has ended is looked at by nobody, nor a snapshot that is gone.
            let Ok(now) = WorkingSet::record(pid, mapping, shape).await else { return };
            if snapshot.upgrade().is_none() {
                return;
            }
            let set = before.map_or_else(|| now.clone(), |before| before.and(&now));
            if !set.is_modest() {
                return;
            }
            match set.save(&note) {
                Ok(()) => drop(notes.lock().insert(note, Arc::new(set))),
                Err(error) => tracing::warn!(error = %chain(&error), "what clones touch could not be noted"),
            }
        });
    }
}

fn note_of(snapshot: &Snapshot) -> PathBuf {
    snapshot.memory.with_extension("working-set")
}

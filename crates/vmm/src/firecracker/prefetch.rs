//! Records which parts of a base's memory its first clones touch, and reads these ahead for later ones: on a host whose
//! page cache is cold, a few large reads replace many page faults. Called by `restore`.
//!
//! The record is a file beside the base's memory, but no part of the base: a wrong or missing one only costs time.

use crate::memory::{Mapping, WorkingSet};
use crate::spec::Snapshot;
use leapbox_errors::chain;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The age at which a clone's memory is examined. By then it has answered its first request; what it touches later is
/// its own workload's and says nothing about other clones.
const RECORD_AFTER: Duration = Duration::from_secs(2);

/// The working sets of the snapshots in use.
#[derive(Debug, Default)]
pub(super) struct Prefetch {
    /// By the path of the stored set.
    notes: Arc<Mutex<HashMap<PathBuf, Arc<WorkingSet>>>>,
    /// Held while one clone is recorded, because recording adds to the stored set.
    recording: Arc<tokio::sync::Mutex<()>>,
}

impl Prefetch {
    /// Starts reading ahead the working set of the snapshot if there is one, and does not wait for it. Reading what the
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
                    Err(error) => {
                        return tracing::warn!(error = %chain(&error), "restoring without read-ahead: no working set");
                    }
                },
            };
            if let Ok(file) = File::open(&memory) {
                set.prefetch(&file);
            }
        });
    }

    /// Frees the working set of a snapshot that is being removed.
    pub fn forget(&self, snapshot: &Snapshot) {
        self.notes.lock().remove(&note_of(snapshot));
    }

    /// Adds the parts of `mapping` that the clone in process `pid` touches in its first seconds to the snapshot's
    /// working set, unless that is complete. Works in the background.
    pub fn record(&self, pid: i32, mapping: Mapping, snapshot: &Arc<Snapshot>) {
        let (shape, note) = (snapshot.shape, note_of(snapshot));
        let (recording, notes) = (Arc::clone(&self.recording), Arc::clone(&self.notes));
        // Weak, so that a snapshot can be removed while one of its clones is recorded.
        let snapshot = Arc::downgrade(snapshot);
        tokio::spawn(async move {
            // A clone that starts while another is recorded is skipped: any of them will do, and in a burst each would
            // otherwise scan its page map.
            let Ok(_recording) = recording.try_lock() else { return };
            // A damaged set counts as none and is replaced.
            let before = WorkingSet::load(&note, shape).unwrap_or_default();
            if before.as_ref().is_some_and(WorkingSet::is_complete) {
                return;
            }
            tokio::time::sleep(RECORD_AFTER).await;
            // Clones that live shorter than `RECORD_AFTER` are normal, so a process that has ended is no error.
            let Ok(now) = WorkingSet::record(pid, mapping, shape).await else { return };
            // Nor is a working set written beside a base that has been removed meanwhile.
            if snapshot.upgrade().is_none() {
                return;
            }
            let set = before.map_or_else(|| now.clone(), |before| before.union(&now));
            if !set.is_within_limit() {
                return;
            }
            match set.save(&note) {
                Ok(()) => drop(notes.lock().insert(note, Arc::new(set))),
                Err(error) => tracing::warn!(error = %chain(&error), "a base's working set could not be stored"),
            }
        });
    }
}

fn note_of(snapshot: &Snapshot) -> PathBuf {
    snapshot.memory.with_extension("working-set")
}

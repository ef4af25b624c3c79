//! What every machine needs to be stored, and what has to be exported because something stored needs it.

use super::capacity::Capacity;
use leapbox_ids::ArchiveId;
use leapbox_storage::ArchiveStore;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use tokio::sync::Notify;

/// What machines are stored with.
pub(crate) struct Storing {
    pub archives: ArchiveStore,
    pub capacity: Capacity,
    pub exports: Exports,
}

/// Bases and images that something stored needs, still to be put into archives.
#[derive(Debug, Default)]
pub(crate) struct Exports {
    wanted: Mutex<BTreeSet<ArchiveId>>,
    added: Notify,
}

impl Exports {
    /// Notes what is to be exported of these archives: a checkpoint is in an archive from the beginning.
    pub fn want(&self, ids: impl IntoIterator<Item = ArchiveId>) {
        self.wanted.lock().extend(ids.into_iter().filter(|id| !matches!(id, ArchiveId::Checkpoint(_))));
        self.added.notify_one();
    }

    /// Waits until more is wanted.
    pub async fn added(&self) {
        self.added.notified().await;
    }

    pub fn is_empty(&self) -> bool {
        self.wanted.lock().is_empty()
    }

    pub fn pop(&self) -> Option<ArchiveId> {
        self.wanted.lock().pop_first()
    }

    /// Keeps what could not be exported for the next attempt.
    pub fn put_back(&self, id: ArchiveId) {
        self.wanted.lock().insert(id);
    }
}

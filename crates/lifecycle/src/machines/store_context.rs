//! Parts of the host that a machine needs to be stored, and the queue of bases and images to be exported.

use super::capacity::Capacity;
use crate::error::CheckpointError;
use leapbox_db::Db;
use leapbox_ids::ArchiveId;
use leapbox_storage::{ArchiveStore, Stamp};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use tokio::sync::Notify;

/// Shared by all machines of a host.
pub(crate) struct StoreContext {
    pub archives: ArchiveStore,
    pub stamps: Stamps,
    pub capacity: Capacity,
    pub exports: Exports,
}

/// Numbers the checkpoints of this installation, so that a database which is older than one of them is recognised.
pub(crate) struct Stamps {
    db: Db,
    installation: String,
}

impl Stamps {
    pub fn new(db: Db, installation: String) -> Self {
        Self { db, installation }
    }

    /// The stamp of the next checkpoint. The database knows its number before anything is written.
    pub async fn next(&self) -> Result<Stamp, CheckpointError> {
        let sequence = self.db.next_sequence().await.map_err(CheckpointError::of_number)?;
        Ok(Stamp { installation: self.installation.clone(), sequence })
    }
}

/// Queue of bases and images that checkpoints need and that are not in the object store yet. See [`super::export`].
#[derive(Debug, Default)]
pub(crate) struct Exports {
    wanted: Mutex<BTreeSet<ArchiveId>>,
    added: Notify,
}

impl Exports {
    /// Queues the bases and images among `ids`.
    pub fn want(&self, ids: impl IntoIterator<Item = ArchiveId>) {
        // A checkpoint is written as an archive in the first place.
        self.wanted.lock().extend(ids.into_iter().filter(|id| !matches!(id, ArchiveId::Checkpoint(_))));
        self.added.notify_one();
    }

    /// Waits until something is queued.
    pub async fn added(&self) {
        self.added.notified().await;
    }

    pub fn is_empty(&self) -> bool {
        self.wanted.lock().is_empty()
    }

    pub fn pop(&self) -> Option<ArchiveId> {
        self.wanted.lock().pop_first()
    }

    /// Queues what could not be exported for the next attempt, without waking the exporter at once.
    pub fn put_back(&self, id: ArchiveId) {
        self.wanted.lock().insert(id);
    }
}

//! Garbage collection: removes exactly the archives that no row of the database names.
//!
//! ```text
//! sweep() ──── lists the directory, then the bucket ──────► candidates
//!    │                                                          │
//! the caller asks its database which archives rows name         │ less the named ones
//!    │                                                          │ less those pinned since sweep()
//! keep_only(named) ◄────────────────────────────────────────────┘
//! ```
//!
//! The candidates are listed first and the names afterwards: an archive that is sealed or named in between is either no
//! candidate or was pinned. In the other order, an archive named just after the question would be removed.

use super::error::StoreError;
use super::index::Reason;
use super::{ArchiveStore, blocking, local};
use leapbox_ids::ArchiveId;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::MutexGuard;

/// A sweep that has listed its candidates. Dropped, it removes nothing.
pub struct Sweep<'a> {
    store: &'a ArchiveStore,
    /// The archives in the directory when the sweep began, and whether each was uploaded by then.
    here: BTreeMap<String, bool>,
    /// The archives in the bucket, listed after `here`, and whether each is complete.
    there: Result<BTreeMap<String, bool>, StoreError>,
    _alone: MutexGuard<'a, ()>,
}

/// The numbers of archives that a sweep has dealt with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Archives that were removed from the directory.
    pub local: usize,
    /// Archives that will be removed from the bucket in the background.
    pub remote: usize,
    /// Archives that were uploaded once and are missing in the bucket. They will be uploaded again.
    pub lost: usize,
}

impl ArchiveStore {
    /// Begins a sweep by listing what there is. The caller then asks its database for the named archives and calls
    /// [`Sweep::keep_only`].
    pub async fn sweep(&self) -> Sweep<'_> {
        // One at a time: the index records the pins for one sweep only.
        let alone = self.inner.sweeping.lock().await;
        let here = self.inner.index.begin_sweep();
        // Made before the bucket is listed, so that its `drop` ends the sweep also when this future is dropped then.
        let mut sweep = Sweep { store: self, here, there: Ok(BTreeMap::new()), _alone: alone };
        if let Some(remote) = &self.inner.remote {
            // The directory first and the bucket afterwards. The other way round, an upload that ended in between would
            // look as if the bucket had lost it.
            sweep.there = match remote.claim(self.inner.key.fingerprint()).await {
                Ok(()) => remote.list().await,
                Err(e) => Err(e),
            };
        }
        sweep
    }
}

impl Sweep<'_> {
    /// Removes the archives that existed when the sweep began, are not in `named`, and have not been pinned since. If
    /// the bucket could not be listed, the directory is swept all the same, and the error is returned afterwards.
    pub async fn keep_only(mut self, named: &BTreeSet<ArchiveId>) -> Result<Swept, StoreError> {
        let named: BTreeSet<String> = named.iter().map(ToString::to_string).collect();
        let index = &self.store.inner.index;
        let mut swept = Swept::default();
        let there = std::mem::replace(&mut self.there, Ok(BTreeMap::new()));
        for id in self.here.keys().filter(|id| !named.contains(*id)) {
            swept.local += usize::from(self.store.inner.remove_local(id, Reason::Swept).await?);
        }
        let there = there?;
        for id in there.keys().filter(|id| !named.contains(*id)) {
            swept.remote += usize::from(index.schedule_remote_delete(id));
        }
        // Somebody has removed objects from the bucket, or it is another one under the same address. As long as there
        // is a copy here, nothing is lost.
        for (id, uploaded) in &self.here {
            if *uploaded && there.get(id) != Some(&true) && index.is_uploaded(id) && self.store.inner.remote.is_some() {
                tracing::warn!(archive = %id, "an uploaded archive is missing in the object store; uploading it again");
                self.upload_again(id).await?;
                swept.lost += 1;
            }
        }
        Ok(swept)
    }

    async fn upload_again(&self, id: &str) -> Result<(), StoreError> {
        let dir = self.store.inner.dir.join(id);
        // The file first: a server that is killed in between uploads once too often instead of never.
        blocking(move || local::unmark_uploaded(&dir)).await??;
        self.store.inner.index.mark_uploaded(id, false);
        self.store.inner.index.work.notify_one();
        Ok(())
    }
}

impl Drop for Sweep<'_> {
    fn drop(&mut self) {
        self.store.inner.index.end_sweep();
    }
}

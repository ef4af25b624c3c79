//! Garbage collection: what nothing names goes, and nothing else.
//!
//! ```text
//! sweep() ──── what is here, what is in the bucket ───► candidates
//!    │                                                      │
//! the caller asks its database what it names                │ less what is named
//!    │                                                      │ less what was pinned since sweep()
//! keep_only(named) ◄────────────────────────────────────────┘
//! ```
//!
//! The candidates come first and the names afterwards: an archive that is sealed or named in between is no candidate,
//! or was pinned. In the other order, one that was named just after the question would be taken.

use super::error::StoreError;
use super::index::Reason;
use super::{ArchiveStore, blocking, local};
use leapbox_ids::ArchiveId;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::MutexGuard;

/// A sweep that was begun. Dropped, it removes nothing.
pub struct Sweep<'a> {
    store: &'a ArchiveStore,
    /// In the folder when it began, and whether uploaded by then.
    here: BTreeMap<String, bool>,
    /// In the bucket after that, and whether complete.
    there: Result<BTreeMap<String, bool>, StoreError>,
    _alone: MutexGuard<'a, ()>,
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Archives removed from the folder.
    pub local: usize,
    /// Archives that are to be removed from the bucket in the background.
    pub remote: usize,
    /// Archives that were uploaded and are missing in the bucket: they are uploaded again.
    pub lost: usize,
}

impl ArchiveStore {
    /// Begins a sweep: notes what there is. The caller then finds out what is named, and calls [`Sweep::keep_only`].
    pub async fn sweep(&self) -> Sweep<'_> {
        let alone = self.inner.sweeping.lock().await;
        let here = self.inner.index.begin_sweep();
        // Owns the end from here on, also when the caller goes away while the bucket is listed.
        let mut sweep = Sweep { store: self, here, there: Ok(BTreeMap::new()), _alone: alone };
        if let Some(remote) = &self.inner.remote {
            sweep.there = match remote.claim(self.inner.key.fingerprint()).await {
                Ok(()) => remote.list().await,
                Err(e) => Err(e),
            };
        }
        sweep
    }
}

impl Sweep<'_> {
    /// Removes what there was when the sweep began, is not in `named`, and has not been pinned since. If the bucket
    /// cannot be listed, the folder is swept all the same, and that is the error.
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
            swept.remote += usize::from(index.doom(id));
        }
        for (id, uploaded) in &self.here {
            if *uploaded && there.get(id) != Some(&true) && index.is_uploaded(id) && self.store.inner.remote.is_some() {
                tracing::warn!(archive = %id, "an uploaded archive is missing in the object store");
                self.upload_again(id).await?;
                swept.lost += 1;
            }
        }
        Ok(swept)
    }

    async fn upload_again(&self, id: &str) -> Result<(), StoreError> {
        let dir = self.store.inner.dir.join(id);
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

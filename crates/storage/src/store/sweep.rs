//! Garbage collection: removes the archives that the caller does not want to keep.
//!
//! ```text
//! sweep() ──── lists the directory, then the bucket ──────► candidates ──► found()
//!    │                                                          │
//! the caller asks its database which archives rows name,        │ less the kept ones
//! and decides how long the other ones wait                      │ less those pinned since sweep()
//!    │                                                          │
//! keep_only(keep) ◄─────────────────────────────────────────────┘
//! ```
//!
//! The candidates are listed first and the names afterwards: an archive that is sealed or named in between is either no
//! candidate or was pinned. In the other order, an archive named just after the question would be removed.

use super::ArchiveStore;
use super::error::StoreError;
use super::index::{Entry, Reason};
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::MutexGuard;

/// A sweep that has listed its candidates. Dropped, it removes nothing.
pub struct Sweep<'a> {
    store: &'a ArchiveStore,
    /// The archives in the directory, as they were when the sweep began.
    here: BTreeMap<String, Entry>,
    /// The archives in the bucket, listed after `here`, and whether each is complete.
    there: Result<BTreeMap<String, bool>, StoreError>,
    _alone: MutexGuard<'a, ()>,
}

/// An archive that a sweep has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundArchive {
    /// The name of its directory: an archive's id, unless somebody else has created the directory.
    pub id: String,
    /// Bytes of its files in the directory; 0 if only the bucket has it.
    pub bytes: u64,
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
    /// Begins a sweep by listing what there is ([`Sweep::found`]). The caller then asks its database for the named
    /// archives, decides which of the others it keeps for now, and calls [`Sweep::keep_only`].
    pub async fn sweep(&self) -> Sweep<'_> {
        // One at a time: the index records the pins for one sweep only.
        let alone = self.inner.sweeping.lock().await;
        let here = self.inner.index.begin_sweep();
        // Made before the bucket is listed, so that its `drop` ends the sweep also when this future is dropped then.
        let mut sweep = Sweep { store: self, here, there: Ok(BTreeMap::new()), _alone: alone };
        if let Some(remote) = &self.inner.remote {
            // The directory first and the bucket afterwards. The other way round, an upload that ended in between would
            // look as if the bucket had lost it.
            sweep.there = match remote.claim(&self.inner.claimant).await {
                Ok(()) => remote.list().await,
                Err(e) => Err(e),
            };
        }
        sweep
    }
}

impl Sweep<'_> {
    /// The archives that existed when the sweep began, named or not, in the order of their ids. If the bucket could not
    /// be listed, those in the directory. What is being removed from the bucket already is left out.
    pub fn found(&self) -> Vec<FoundArchive> {
        let here = self.here.iter().map(|(id, entry)| (id.clone(), entry.bytes));
        let mut found: BTreeMap<String, u64> = here.collect();
        let there = self.there.iter().flat_map(BTreeMap::keys);
        // Counted again, the removed ones would make a bucket that is away for an hour look full of garbage.
        for id in there.filter(|id| !self.store.inner.index.is_pending_remote_delete(id)) {
            found.entry(id.clone()).or_default();
        }
        found.into_iter().map(|(id, bytes)| FoundArchive { id, bytes }).collect()
    }

    /// Removes the archives that existed when the sweep began, whose names are not in `keep`, and that have not been
    /// pinned since. If the bucket could not be listed, the directory is swept all the same, and the error is returned
    /// afterwards. Nothing is removed if the bucket belongs to another installation or is newer than the database.
    pub async fn keep_only(mut self, keep: &BTreeSet<String>) -> Result<Swept, StoreError> {
        let index = &self.store.inner.index;
        let mut swept = Swept::default();
        let there = match std::mem::replace(&mut self.there, Ok(BTreeMap::new())) {
            Err(refusal) if refusal.is_refusal() => return Err(refusal),
            there => there,
        };
        for id in self.here.keys().filter(|id| !keep.contains(*id)) {
            swept.local += usize::from(self.store.inner.remove_local(id, Reason::Swept).await?);
        }
        let there = there?;
        for id in there.keys().filter(|id| !keep.contains(*id)) {
            swept.remote += usize::from(index.schedule_remote_delete(id));
        }
        // Somebody has removed objects from the bucket, or it is another one under the same address. As long as there
        // is a copy here, nothing is lost.
        for (id, entry) in &self.here {
            if entry.uploaded
                && there.get(id) != Some(&true)
                && index.is_uploaded(id)
                && self.store.inner.remote.is_some()
            {
                tracing::warn!(archive = %id, "an uploaded archive is missing in the object store; uploading it again");
                self.store.inner.upload_again(id).await?;
                swept.lost += 1;
            }
        }
        Ok(swept)
    }
}

impl Drop for Sweep<'_> {
    fn drop(&mut self) {
        self.store.inner.index.end_sweep();
    }
}

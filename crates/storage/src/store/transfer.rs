//! Background work between the directory and the bucket: removals, uploads and evictions, in this order and one at a
//! time.
//!
//! [`ArchiveStore::run`] is started by `lifecycle` with its machines and ends with the server.

use super::error::StoreError;
use super::index::{Index, Reason};
use super::remote::{PIECE, Remote};
use super::{ArchiveStore, Inner, blocking, local};
use crate::archive::MANIFEST;
use bytes::Bytes;
use leapbox_errors::{FileError, chain};
use leapbox_ids::ArchiveId;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// The pause after a failure, doubled with every further one up to `BACKOFF_MAX`.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
// When the server ends, an upload has this long to abort itself, so that no parts of it are left in the bucket. Less
// than `local::LOCK_WAIT`: the next server waits for this one's lock.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

impl ArchiveStore {
    /// Works until `stop`: uploads archives that are sealed and not pinned, removes from the bucket those that were
    /// removed here, and keeps the directory within its budget. Failures are logged and tried again. To be run once per
    /// store.
    pub async fn run(&self, stop: CancellationToken) {
        let mut backoff = BACKOFF_MIN;
        while !stop.is_cancelled() {
            let worked = tokio::select! {
                worked = self.inner.settle(&stop) => worked,
                () = stopped_for(&stop, SHUTDOWN_TIMEOUT) => return,
            };
            let pause = match worked {
                Ok(()) => {
                    backoff = BACKOFF_MIN;
                    Duration::MAX
                }
                Err(_) if stop.is_cancelled() => return,
                Err(e) => {
                    tracing::warn!(
                        error = %chain(&e), retry_in = ?backoff,
                        "work with the object store failed; trying again"
                    );
                    let longer = (backoff * 2).min(BACKOFF_MAX);
                    std::mem::replace(&mut backoff, longer)
                }
            };
            tokio::select! {
                // After a failure the pause is kept even if there is more to do: that would fail as well.
                () = self.inner.index.work.notified(), if pause == Duration::MAX => {}
                () = sleep(pause), if pause < Duration::MAX => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Does now what [`ArchiveStore::run`] would do in the background, until nothing is left to do or something fails.
    #[cfg(test)]
    pub(super) async fn settle(&self) -> Result<(), StoreError> {
        self.inner.settle(&CancellationToken::new()).await
    }
}

async fn stopped_for(stop: &CancellationToken, time: Duration) {
    stop.cancelled().await;
    // A sleep that is always the whole `time`, because the inner future never ends.
    let _ = timeout(time, std::future::pending::<()>()).await;
}

impl Inner {
    async fn settle(&self, stop: &CancellationToken) -> Result<(), StoreError> {
        let Some(remote) = &self.remote else {
            return Ok(());
        };
        let _working = self.working.lock().await;
        let exchanged = self.exchange(remote, stop).await;
        if stop.is_cancelled() {
            return exchanged;
        }
        // After the uploads, because only uploaded archives may be evicted; and also if one failed, because it may fail
        // for ever, and the directory must stay within its budget.
        let evicted = self.evict(remote).await;
        if let (Err(_), Err(error)) = (&exchanged, &evicted) {
            tracing::warn!(error = %chain(error), "the directory of archives may exceed its budget");
        }
        exchanged.and(evicted)
    }

    /// Removes from the bucket and uploads to it until nothing is left to do or an upload fails.
    async fn exchange(&self, remote: &Remote, stop: &CancellationToken) -> Result<(), StoreError> {
        let mut removed = Ok(());
        while !stop.is_cancelled() {
            // Removals first, because an archive that was written anew under a removed one's name can be uploaded only
            // after it. One that fails does not keep the others from being uploaded, and is reported in the end.
            if removed.is_ok() {
                removed = self.delete_pending(remote).await;
            }
            let Some(id) = self.index.next_upload() else { break };
            remote.claim(&self.claimant).await?;
            self.upload(remote, &id, stop).await.inspect_err(|_| self.index.count_failure(&id.to_string()))?;
        }
        removed
    }

    async fn delete_pending(&self, remote: &Remote) -> Result<(), StoreError> {
        while let Some(id) = self.index.next_pending_remote_delete() {
            remote.claim(&self.claimant).await?;
            remote.remove(&id).await?;
            self.index.finish_remote_delete(&id);
        }
        Ok(())
    }

    async fn evict(&self, remote: &Remote) -> Result<(), StoreError> {
        let limit = self.cache_bytes.unwrap_or(u64::MAX);
        if self.index.next_eviction(limit).is_none() {
            return Ok(());
        }
        // The markers beside the archives say what the bucket has got, and not whose it is by now.
        remote.claim(&self.claimant).await?;
        while let Some(id) = self.index.next_eviction(limit) {
            // Asked for each, because this copy is the last one if somebody has emptied the bucket.
            if remote.manifest(&id).await?.is_none() {
                tracing::warn!(archive = %id, "an uploaded archive is missing in the object store; uploading it again");
                self.upload_again(&id).await?;
                continue;
            }
            // The result does not matter: false says that it has just been pinned, and then it is no longer the next.
            self.remove_local(&id, Reason::Evicted).await?;
        }
        Ok(())
    }

    /// Has an archive uploaded once more, which the bucket has lost.
    pub(super) async fn upload_again(&self, id: &str) -> Result<(), StoreError> {
        let dir = self.dir.join(id);
        // The file first: a server that is killed in between uploads once too often instead of never.
        blocking(move || local::unmark_uploaded(&dir)).await??;
        self.index.mark_uploaded(id, false);
        self.index.work.notify_one();
        Ok(())
    }

    /// Uploads one archive. If it is removed meanwhile, that is no error; its removal from the bucket follows.
    async fn upload(&self, remote: &Remote, id: &ArchiveId, stop: &CancellationToken) -> Result<(), StoreError> {
        let folder = id.to_string();
        // Opening it authenticates the manifest and compares the parts' lengths, so that an archive that lacks
        // something is not uploaded.
        let Some(archive) = self.open_local(id).await? else {
            self.index.forget(&folder);
            return Ok(());
        };
        if !self.index.begin_upload(&folder) {
            return Ok(());
        }
        for (name, file, length) in archive.stored_parts() {
            let needed = StillNeeded { index: Arc::clone(&self.index), id: id.clone(), stop: stop.clone() };
            match put_file(remote, &folder, name, file, length, needed).await {
                Err(StoreError::UploadCancelled { .. }) if !stop.is_cancelled() => return Ok(()),
                put => put?,
            }
        }
        // Numbers under another id are from another count, and would make this database look older than it is.
        if let Some(stamp) = archive.stamp().filter(|stamp| stamp.installation == self.claimant.installation) {
            remote.raise_sequence(&self.claimant, stamp.sequence).await?;
        }
        // The manifest last, and only when all parts are complete: an archive in the bucket that has one is whole.
        remote.put(&folder, MANIFEST, archive.manifest_text().to_vec()).await?;
        if !self.index.mark_uploaded(&folder, true) {
            return Ok(());
        }
        let (dir, bucket) = (self.dir.join(&folder), remote.identity.clone());
        Ok(blocking(move || local::mark_uploaded(&dir, &bucket)).await??)
    }
}

async fn put_file(
    remote: &Remote,
    id: &str,
    name: &str,
    file: &Arc<File>,
    length: u64,
    needed: StillNeeded,
) -> Result<(), StoreError> {
    let mut position = 0;
    let next = || {
        // One piece at a time is read from the disk, and checked for before: what is not needed any more is given up
        // within a piece.
        let (file, start) = (Arc::clone(file), position);
        position = length.min(start + PIECE as u64);
        let piece = needed.check().map(|()| (position - start) as usize);
        let failed = FileError::of("reading the part", name.to_owned());
        async move {
            match piece? {
                0 => Ok(None),
                size => Ok(Some(blocking(move || read_piece(&file, start, size)).await?.map_err(failed)?)),
            }
        }
    };
    remote.put_pieces(id, name, next).await
}

fn read_piece(file: &File, start: u64, size: usize) -> std::io::Result<Bytes> {
    let mut piece = vec![0; size];
    file.read_exact_at(&mut piece, start)?;
    Ok(piece.into())
}

/// Tells whether an upload is still needed; asked before every piece.
struct StillNeeded {
    index: Arc<Index>,
    id: ArchiveId,
    stop: CancellationToken,
}

impl StillNeeded {
    fn check(&self) -> Result<(), StoreError> {
        // The pending removal counts as well as the missing entry: another archive may have been written under the same
        // name since, and this upload is of the files of the removed one.
        let name = self.id.to_string();
        let gone = !self.index.contains(&name) || self.index.is_pending_remote_delete(&name);
        if self.stop.is_cancelled() || gone {
            return Err(StoreError::UploadCancelled { id: self.id.clone() });
        }
        Ok(())
    }
}

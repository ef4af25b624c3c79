//! What goes on between the folder and the bucket in the background: removals, uploads, evictions, in this order and
//! one at a time.

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

/// After a failure; doubled with every further one.
const PATIENCE: Duration = Duration::from_secs(1);
const PATIENCE_MAX: Duration = Duration::from_secs(60);
/// An upload that is under way when the server ends may abort itself for so long.
const FAREWELL: Duration = Duration::from_secs(3);

impl ArchiveStore {
    /// Works until `stop`: uploads what is sealed and released, removes from the bucket what was removed here, and
    /// keeps the folder within its bound. Failures are logged and tried again. To be run once per store.
    pub async fn run(&self, stop: CancellationToken) {
        let mut patience = PATIENCE;
        while !stop.is_cancelled() {
            let worked = tokio::select! {
                worked = self.inner.settle(&stop) => worked,
                () = stopped_for(&stop, FAREWELL) => return,
            };
            let pause = match worked {
                Ok(()) => {
                    patience = PATIENCE;
                    Duration::MAX
                }
                Err(_) if stop.is_cancelled() => return,
                Err(e) => {
                    tracing::warn!(error = %chain(&e), retry_in = ?patience, "the object store");
                    let longer = (patience * 2).min(PATIENCE_MAX);
                    std::mem::replace(&mut patience, longer)
                }
            };
            tokio::select! {
                // After a failure, news is no reason to try sooner.
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
    // Never ends before.
    let _ = timeout(time, std::future::pending::<()>()).await;
}

impl Inner {
    async fn settle(&self, stop: &CancellationToken) -> Result<(), StoreError> {
        let Some(remote) = &self.remote else {
            return Ok(());
        };
        let _working = self.working.lock().await;
        let mut removed = Ok(());
        while !stop.is_cancelled() {
            // What cannot be removed now does not keep the rest from being uploaded.
            if removed.is_ok() {
                removed = self.remove_doomed(remote).await;
            }
            let Some(id) = self.index.next_upload() else {
                self.evict().await?;
                break;
            };
            remote.claim(self.key.fingerprint()).await?;
            self.upload(remote, &id, stop).await.inspect_err(|_| self.index.count_failure(&id.to_string()))?;
        }
        removed
    }

    async fn remove_doomed(&self, remote: &Remote) -> Result<(), StoreError> {
        while let Some(id) = self.index.next_doomed() {
            remote.claim(self.key.fingerprint()).await?;
            remote.remove(&id).await?;
            self.index.undoom(&id);
        }
        Ok(())
    }

    async fn evict(&self) -> Result<(), StoreError> {
        let limit = self.cache_bytes.unwrap_or(u64::MAX);
        while let Some(id) = self.index.next_eviction(limit) {
            // False if somebody has just begun to use it: then it is no longer the next.
            self.remove_local(&id, Reason::Evicted).await?;
        }
        Ok(())
    }

    /// Uploads one archive, the manifest last. If it is removed meanwhile, that is no error; the removal follows.
    async fn upload(&self, remote: &Remote, id: &ArchiveId, stop: &CancellationToken) -> Result<(), StoreError> {
        let folder = id.to_string();
        let Some(archive) = self.open_local(id).await? else {
            self.index.forget(&folder);
            return Ok(());
        };
        if !self.index.begin_upload(&folder) {
            return Ok(());
        }
        for (name, file, length) in archive.stored_parts() {
            let wanted = Wanted { index: Arc::clone(&self.index), id: id.clone(), stop: stop.clone() };
            match put_file(remote, &folder, name, file, length, wanted).await {
                Err(StoreError::GivenUp { .. }) if !stop.is_cancelled() => return Ok(()),
                put => put?,
            }
        }
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
    wanted: Wanted,
) -> Result<(), StoreError> {
    let mut position = 0;
    let next = || {
        let (file, start) = (Arc::clone(file), position);
        position = length.min(start + PIECE as u64);
        let piece = wanted.check().map(|()| (position - start) as usize);
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

/// Whether an upload is still of use.
struct Wanted {
    index: Arc<Index>,
    id: ArchiveId,
    stop: CancellationToken,
}

impl Wanted {
    fn check(&self) -> Result<(), StoreError> {
        // Doomed: removed, and perhaps written anew under the same name since.
        let name = self.id.to_string();
        let gone = !self.index.contains(&name) || self.index.is_doomed(&name);
        if self.stop.is_cancelled() || gone {
            return Err(StoreError::GivenUp { id: self.id.clone() });
        }
        Ok(())
    }
}

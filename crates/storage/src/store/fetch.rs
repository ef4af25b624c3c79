//! Downloads archives from the bucket, once however many callers wait for one, verifies them, and keeps them in the
//! directory.

use super::error::StoreError;
use super::remote::{Remote, wrong_length};
use super::{Inner, blocking, local};
use crate::archive::{Archive, MANIFEST, Manifest, publish};
use futures::TryStreamExt;
use futures::future::{BoxFuture, FutureExt, Shared, try_join_all};
use leapbox_errors::{FileError, chain};
use leapbox_ids::ArchiveId;
use object_store::path::Path as ObjectPath;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::task::TaskTracker;

// In an `Arc`, because every caller that waits gets the same error.
type Outcome = Result<(), Arc<StoreError>>;
type Fetch = Shared<BoxFuture<'static, Outcome>>;

/// The downloads that are in progress.
#[derive(Default)]
pub(super) struct Fetches {
    by_id: Mutex<HashMap<ArchiveId, Fetch>>,
}

impl Fetches {
    fn lock(&self) -> MutexGuard<'_, HashMap<ArchiveId, Fetch>> {
        self.by_id.lock()
    }
}

/// Takes a download off the list of those in progress when it ends, also if its task panics.
struct DownloadGuard {
    inner: Arc<Inner>,
    id: ArchiveId,
}

impl Drop for DownloadGuard {
    fn drop(&mut self) {
        self.inner.fetches.lock().remove(&self.id);
    }
}

impl Inner {
    /// Downloads the archive and opens it. The caller has pinned `id`, so that it is not evicted in between.
    pub(super) async fn open_remote(self: &Arc<Self>, id: &ArchiveId) -> Result<Archive, StoreError> {
        let missing = || StoreError::NotFound { id: id.clone() };
        // What was removed here does not come back while the bucket still has it.
        if self.remote.is_none() || self.index.is_pending_remote_delete(&id.to_string()) {
            return Err(missing());
        }
        match self.fetch(id).await {
            Ok(()) => self.open_local(id).await?.ok_or_else(missing),
            Err(e) if matches!(*e, StoreError::NotFound { .. }) => Err(missing()),
            Err(source) => Err(StoreError::Fetch { id: id.clone(), source }),
        }
    }

    fn fetch(self: &Arc<Self>, id: &ArchiveId) -> Fetch {
        let mut fetches = self.fetches.lock();
        if let Some(fetch) = fetches.get(id) {
            return fetch.clone();
        }
        let guard = DownloadGuard { inner: Arc::clone(self), id: id.clone() };
        // A task of its own, because the caller that asked first may hang up while others wait. The guard's `drop`
        // needs the lock that is held here, so that a task that ends at once cannot take its download off the list too
        // early.
        let task = tokio::spawn(async move {
            let fetched = download(&guard.inner, &guard.id).await.map_err(Arc::new);
            // Before the outcome is known to anybody: who asks again after an error must get a new attempt.
            drop(guard);
            fetched
        });
        let fetch = task.map(|ended| ended.unwrap_or_else(|e| Err(Arc::new(StoreError::Task(e))))).boxed().shared();
        fetches.insert(id.clone(), fetch.clone());
        fetch
    }
}

/// Downloads the archive into the directory, whole or not at all. Nothing that the bucket says is trusted before it is
/// authenticated.
async fn download(inner: &Inner, id: &ArchiveId) -> Result<(), StoreError> {
    let Some(remote) = &inner.remote else {
        return Err(StoreError::NotFound { id: id.clone() });
    };
    let name = id.to_string();
    let place = inner.dir.join(&name);
    if inner.index.contains(&name) && std::fs::symlink_metadata(&place).is_ok() {
        // Another download has ended between the caller's look into the directory and this one.
        return Ok(());
    }
    // The manifest first: without one the archive is not complete, and once it is authentic, it bounds the parts'
    // lengths.
    let Some(text) = remote.manifest(&name).await? else {
        return Err(StoreError::NotFound { id: id.clone() });
    };
    let draft = PartialDownload(inner.dir.join(format!(".fetch-{name}")));
    let manifest = Manifest::decode(&text, &name, &inner.key, &draft.0.join(MANIFEST))?;
    let folder = draft.0.clone();
    blocking(move || {
        local::remove_all(&folder)?;
        DirBuilder::new().mode(0o700).create(&folder).map_err(FileError::of("creating", &folder))
    })
    .await??;
    let writes = TaskTracker::new();
    let parts = manifest.parts.iter().map(|(part_name, part)| {
        let length = part.stats.stored_bytes;
        download_part(remote, &name, part_name, length, draft.0.join(part_name), &writes)
    });
    let downloaded = try_join_all(parts).await;
    // One part's failure ends the others' futures, but not the write that each has begun in another thread. A file that
    // is created while the directory is being removed would keep it there.
    writes.close();
    writes.wait().await;
    downloaded?;
    if inner.index.is_pending_remote_delete(&name) {
        // Removed during the download. Published, it would be there again with nothing that names it.
        return Err(StoreError::NotFound { id: id.clone() });
    }
    let (id, key, bucket) = (id.clone(), inner.key.clone(), remote.identity.clone());
    let stored = blocking(move || {
        let path = draft.0.join(MANIFEST);
        let mut file = create(&path)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(FileError::of("writing", &path))?;
        // Every frame now and not when it is read, because a copy that lies in the directory counts as sound: only its
        // manifest decides whether it is fetched again.
        let archive = Archive::open(&draft.0, &id, &key)?;
        archive.verify()?;
        local::mark_uploaded(&draft.0, &bucket)?;
        publish(&draft.0, &place)?;
        Ok::<_, StoreError>(archive.stored_bytes())
    });
    let bytes = stored.await??;
    inner.index.insert(&name, bytes, true);
    Ok(())
}

/// Downloads one part. All that it does with the file is in `writes`.
async fn download_part(
    remote: &Remote,
    id: &str,
    name: &str,
    length: u64,
    path: PathBuf,
    writes: &TaskTracker,
) -> Result<(), StoreError> {
    let found = remote.part(id, name, length).await?;
    let object = found.meta.location.clone();
    let failed = |step| {
        let object = object.to_string();
        move |source| StoreError::Remote { step, object, source }
    };
    let mut pieces = found.into_stream();
    let create = {
        let path = path.clone();
        move || create(&path)
    };
    let mut file = writes.spawn_blocking(create).await.map_err(StoreError::Task)??;
    let mut position = 0;
    while let Some(piece) = pieces.try_next().await.map_err(failed("reading"))? {
        position += piece.len() as u64;
        // Before it is written: a server that sends without end must not fill the disk.
        check_length(&object, position, length, position > length)?;
        let writing = FileError::of("writing", path.clone());
        let write = move || file.write_all(&piece).map(|()| file).map_err(writing);
        file = writes.spawn_blocking(write).await.map_err(StoreError::Task)??;
    }
    check_length(&object, position, length, position < length)?;
    let sync = move || file.sync_all().map_err(FileError::of("writing to disk", path));
    Ok(writes.spawn_blocking(sync).await.map_err(StoreError::Task)??)
}

fn check_length(object: &ObjectPath, found: u64, expected: u64, wrong: bool) -> Result<(), StoreError> {
    if wrong { Err(wrong_length(object, found, expected)) } else { Ok(()) }
}

fn create(path: &Path) -> Result<File, FileError> {
    let mut options = File::options();
    let options = options.write(true).create_new(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
    options.open(path).map_err(FileError::of("creating", path))
}

/// The directory of a download, which is removed unless it has got its final name.
struct PartialDownload(PathBuf);

impl Drop for PartialDownload {
    fn drop(&mut self) {
        if let Err(error) = local::remove_all(&self.0) {
            tracing::warn!(
                error = %chain(&error),
                "an unfinished download could not be removed; the next start removes it"
            );
        }
    }
}

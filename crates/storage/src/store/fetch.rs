//! Archives from the bucket: downloaded once however many ask, checked, and kept in the folder.

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

type Outcome = Result<(), Arc<StoreError>>;
type Fetch = Shared<BoxFuture<'static, Outcome>>;

/// The downloads under way.
#[derive(Default)]
pub(super) struct Fetches {
    by_id: Mutex<HashMap<ArchiveId, Fetch>>,
}

impl Fetches {
    fn lock(&self) -> MutexGuard<'_, HashMap<ArchiveId, Fetch>> {
        self.by_id.lock()
    }
}

/// Ends a download's being under way, also when its task panics.
struct UnderWay {
    inner: Arc<Inner>,
    id: ArchiveId,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.inner.fetches.lock().remove(&self.id);
    }
}

impl Inner {
    /// The caller has pinned `id`, so that what came is still there when it is opened.
    pub(super) async fn open_remote(self: &Arc<Self>, id: &ArchiveId) -> Result<Archive, StoreError> {
        let missing = || StoreError::NotFound { id: id.clone() };
        if self.remote.is_none() || self.index.is_doomed(&id.to_string()) {
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
        let under_way = UnderWay { inner: Arc::clone(self), id: id.clone() };
        // A task of its own: it does not end with whoever asked first.
        let task = tokio::spawn(async move {
            let fetched = download(&under_way.inner, &under_way.id).await.map_err(Arc::new);
            drop(under_way);
            fetched
        });
        let fetch = task.map(|ended| ended.unwrap_or_else(|e| Err(Arc::new(StoreError::Task(e))))).boxed().shared();
        fetches.insert(id.clone(), fetch.clone());
        fetch
    }
}

/// Brings the archive into the folder, whole or not at all.
async fn download(inner: &Inner, id: &ArchiveId) -> Result<(), StoreError> {
    let Some(remote) = &inner.remote else {
        return Err(StoreError::NotFound { id: id.clone() });
    };
    let name = id.to_string();
    let place = inner.dir.join(&name);
    if inner.index.contains(&name) && std::fs::symlink_metadata(&place).is_ok() {
        return Ok(()); // came between the caller's look and this
    }
    let Some(text) = remote.manifest(&name).await? else {
        return Err(StoreError::NotFound { id: id.clone() });
    };
    let draft = Draft(inner.dir.join(format!(".fetch-{name}")));
    let manifest = Manifest::decode(&text, &name, &inner.key, &draft.0.join(MANIFEST))?;
    let folder = draft.0.clone();
    blocking(move || {
        local::remove_all(&folder)?;
        DirBuilder::new().mode(0o700).create(&folder).map_err(FileError::of("creating", &folder))
    })
    .await??;
    let parts = manifest.parts.iter().map(|(part_name, part)| {
        let length = part.stats.stored_bytes;
        download_part(remote, &name, part_name, length, draft.0.join(part_name))
    });
    try_join_all(parts).await?;
    if inner.index.is_doomed(&name) {
        return Err(StoreError::NotFound { id: id.clone() }); // removed meanwhile
    }
    let (id, key, bucket) = (id.clone(), inner.key.clone(), remote.identity.clone());
    let stored = blocking(move || {
        let path = draft.0.join(MANIFEST);
        let mut file = create(&path)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(FileError::of("writing", &path))?;
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

async fn download_part(remote: &Remote, id: &str, name: &str, length: u64, path: PathBuf) -> Result<(), StoreError> {
    let found = remote.part(id, name, length).await?;
    let object = found.meta.location.clone();
    let failed = |step| {
        let object = object.to_string();
        move |source| StoreError::Remote { step, object, source }
    };
    let mut pieces = found.into_stream();
    let mut file = blocking({
        let path = path.clone();
        move || create(&path)
    })
    .await??;
    let mut position = 0;
    while let Some(piece) = pieces.try_next().await.map_err(failed("reading"))? {
        position += piece.len() as u64;
        check_length(&object, position, length, position > length)?;
        let writing = FileError::of("writing", path.clone());
        file = blocking(move || file.write_all(&piece).map(|()| file).map_err(writing)).await??;
    }
    check_length(&object, position, length, position < length)?;
    Ok(blocking(move || file.sync_all().map_err(FileError::of("writing to disk", path))).await??)
}

fn check_length(object: &ObjectPath, found: u64, expected: u64, wrong: bool) -> Result<(), StoreError> {
    if wrong { Err(wrong_length(object, found, expected)) } else { Ok(()) }
}

fn create(path: &Path) -> Result<File, FileError> {
    let mut options = File::options();
    let options = options.write(true).create_new(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
    options.open(path).map_err(FileError::of("creating", path))
}

/// The folder of a download; removed unless it was given its final name.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        if let Err(error) = local::remove_all(&self.0) {
            tracing::warn!(error = %chain(&error), "what a download left is removed at the next start");
        }
    }
}

//! The store of archives: a folder on this host, and a bucket behind it if one is configured.
//!
//! ```text
//! begin ─► ArchiveWriter ─ seal ─► the folder ──(run: in the background)──► the bucket
//!                                     │  ▲                                      │
//!                          get ◄──────┘  └──────── fetched when it is not here ─┘
//! ```
//!
//! What is sealed is durable in the folder, whatever the bucket does; uploads are tried until they succeed. What is
//! uploaded may be evicted from the folder, the longest unused first, and comes back when it is asked for: with all of
//! the folder gone, everything that was uploaded is still there.
//!
//! Removal is explicit ([`ArchiveStore::remove`]) or a sweep ([`ArchiveStore::sweep`]) of all that nothing names. A
//! [`Pin`] keeps an archive from being swept between its sealing and the database's row that names it.
//!
//! Built by `serve`, in one process only; called by `lifecycle` (checkpoints, snapshots), `bases` and `templates`
//! (images).

mod config;
mod error;
mod fetch;
mod http;
mod index;
mod local;
mod remote;
mod sweep;
#[cfg(test)]
mod tests;
mod transfer;
mod usage;
mod writer;

pub use config::RemoteConfig;
pub use error::StoreError;
pub use index::Pin;
pub use sweep::{Sweep, Swept};
pub use usage::Usage;
pub use writer::{ArchiveWriter, Sealed};

use crate::archive::{Archive, Writer};
use crate::key::ServerKey;
use fetch::Fetches;
use index::{Index, Reason};
use leapbox_errors::{FileError, chain};
use leapbox_ids::ArchiveId;
use remote::Remote;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

/// Where archives are kept.
#[derive(Debug)]
pub struct StoreConfig {
    /// The folder on this host; made if it is missing, and private.
    pub dir: PathBuf,
    /// What they are sealed with.
    pub key: ServerKey,
    /// The bucket, if there is one.
    pub remote: Option<RemoteConfig>,
    /// Bytes that the folder may hold of what the bucket has; without a bound if none.
    pub cache_bytes: Option<u64>,
}

/// The archives of an installation. Cheap to clone.
#[derive(Clone)]
pub struct ArchiveStore {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    key: ServerKey,
    remote: Option<Remote>,
    cache_bytes: Option<u64>,
    index: Arc<Index>,
    fetches: Fetches,
    /// Held by who uploads, evicts or removes from the bucket: one thing at a time, so that no removal meets an upload.
    working: tokio::sync::Mutex<()>,
    sweeping: tokio::sync::Mutex<()>,
    /// The folder is ours while it is open.
    _lock: File,
}

impl ArchiveStore {
    /// Opens the folder for this process alone, removes from it what a killed server left unfinished, and finds out
    /// what is still to be uploaded. The bucket is not asked. Blocking; fails after five seconds if another server
    /// has the folder.
    pub fn open(config: StoreConfig) -> Result<Self, StoreError> {
        let StoreConfig { dir, key, remote, cache_bytes } = config;
        let lock = local::lock(&dir)?;
        local::clear_unfinished(&dir)?;
        if let Some(folder) = remote.as_ref().and_then(|remote| remote.folder.as_deref()) {
            config::clear_staged(folder)?;
        }
        let remote = remote.map(|remote| remote.remote);
        let index = Arc::new(Index::new(remote.is_some()));
        for found in local::scan(&dir)? {
            let uploaded = remote.as_ref().is_some_and(|remote| found.uploaded_to.as_deref() == Some(&remote.identity));
            index.insert_found(&found.id, found.bytes, uploaded);
        }
        let (fetches, working, sweeping) = Default::default();
        let inner = Inner { dir, key, remote, cache_bytes, index, fetches, working, sweeping, _lock: lock };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Begins the archive `id`, which there must not be in the folder. It is pinned from now on. Blocking.
    pub fn begin(&self, id: &ArchiveId) -> Result<ArchiveWriter, StoreError> {
        let pin = self.inner.index.pin(id);
        Ok(ArchiveWriter::new(Writer::begin(&self.inner.dir, id, &self.inner.key)?, pin))
    }

    /// Opens the archive `id`, from the folder or, if it is not there, from the bucket: downloaded once for all who ask
    /// meanwhile, verified, and kept.
    pub async fn get(&self, id: &ArchiveId) -> Result<Archive, StoreError> {
        let _pin = self.inner.index.pin(id);
        match self.inner.open_local(id).await? {
            Some(archive) => Ok(archive),
            None => self.inner.open_remote(id).await,
        }
    }

    /// Pins the archive `id` if there is one, here or in the bucket: what is about to be named again, like a base by
    /// another sandbox, cannot be swept before it is.
    pub async fn hold(&self, id: &ArchiveId) -> Result<Option<Pin>, StoreError> {
        let (name, pin) = (id.to_string(), self.inner.index.pin(id));
        if self.inner.index.contains(&name) {
            return Ok(Some(pin));
        }
        match &self.inner.remote {
            Some(remote) if !self.inner.index.is_doomed(&name) => Ok(remote.manifest(&name).await?.map(|_| pin)),
            _ => Ok(None),
        }
    }

    /// Removes the archive `id` from the folder, now, and from the bucket, in the background. Who is reading it is not
    /// disturbed. One that is not there is no error.
    pub async fn remove(&self, id: &ArchiveId) -> Result<(), StoreError> {
        self.inner.remove_local(&id.to_string(), Reason::Removed).await.map(drop)
    }

    /// Whether there is a bucket behind the folder.
    pub fn has_remote(&self) -> bool {
        self.inner.remote.is_some()
    }

    /// What there is, as far as the folder knows.
    pub fn usage(&self) -> Usage {
        Usage::of(self.inner.index.entries().iter().map(|entry| (entry.bytes, entry.uploaded)))
    }
}

impl std::fmt::Debug for ArchiveStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let remote = self.inner.remote.as_ref().map(|remote| &remote.url);
        f.debug_struct("ArchiveStore").field("dir", &self.inner.dir).field("remote", &remote).finish_non_exhaustive()
    }
}

impl Inner {
    /// The archive in the folder; none if there is none. One that is damaged but whole in the bucket counts as none.
    async fn open_local(&self, id: &ArchiveId) -> Result<Option<Archive>, StoreError> {
        let name = id.to_string();
        let (dir, key, id) = (self.dir.join(&name), self.key.clone(), id.clone());
        let opened = blocking(move || match Archive::open(&dir, &id, &key) {
            Err(_) if std::fs::symlink_metadata(&dir).is_err() => Ok(None),
            opened => opened.map(Some),
        });
        match opened.await? {
            Err(damage) if damage.is_damage() && self.index.is_uploaded(&name) => {
                tracing::warn!(archive = name, error = %chain(&damage), "a stored archive is damaged here; taking the bucket's");
                self.remove_local(&name, Reason::Damaged).await?;
                Ok(None)
            }
            opened => {
                self.index.touch(&name);
                Ok(opened?)
            }
        }
    }

    /// Takes the archive out of the folder; false if it is not there, or pinned and not to be taken from who pins it.
    async fn remove_local(&self, id: &str, reason: Reason) -> Result<bool, StoreError> {
        let (index, dir, id) = (Arc::clone(&self.index), self.dir.clone(), id.to_owned());
        blocking(move || {
            let taken = index.take(&dir, &id, reason).map_err(FileError::of("removing", dir.join(&id)))?;
            let Some(away) = taken else { return Ok(false) };
            local::remove_all(&away)?;
            Ok(true)
        })
        .await?
    }
}

/// Runs file operations where they hold nobody up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(StoreError::Task)
}

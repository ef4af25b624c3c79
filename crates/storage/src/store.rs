//! The store of archives: a directory on this host, and a bucket behind it if one is configured.
//!
//! ```text
//! begin ─► ArchiveWriter ─ seal ─► directory ──(run: in the background)──► bucket
//!                                     │  ▲                                   │
//!                          get ◄──────┘  └────── fetched if it is not here ──┘
//! ```
//!
//! A sealed archive is durable in the directory, whatever the bucket does; its upload is tried until it succeeds. An
//! uploaded archive may be evicted from the directory, the least recently used first, and is fetched again when it is
//! needed. If the whole directory is lost, everything that was uploaded is still available.
//!
//! Archives are removed one by one ([`ArchiveStore::remove`]), or by a sweep ([`ArchiveStore::sweep`]) of all that the
//! caller does not keep. A [`Pin`] keeps an archive from being swept between its sealing and the commit of its row.
//! So that an older database does not take for garbage what a newer one has stored, every checkpoint has a [`Stamp`].
//! [`survey()`] finds the highest number in the directory, and the bucket says its own highest one (`owner`).
//!
//! Built by `serve`, in one process only; called by `lifecycle` (checkpoints, snapshots), `bases` and `templates`
//! (images).

mod config;
mod error;
mod fetch;
mod http;
mod index;
mod local;
mod owner;
mod remote;
mod survey;
mod sweep;
#[cfg(test)]
mod tests;
mod transfer;
mod usage;
mod writer;

pub use config::RemoteConfig;
pub use error::StoreError;
pub use index::Pin;
pub use survey::{Survey, survey};
pub use sweep::{FoundArchive, Sweep, Swept};
pub use usage::Usage;
pub use writer::{ArchiveWriter, Sealed};

use crate::archive::{Archive, ArchiveError, Stamp, Writer};
use crate::key::ServerKey;
use fetch::Fetches;
use index::{Index, Reason};
use leapbox_errors::{FileError, chain};
use leapbox_ids::ArchiveId;
use owner::Claimant;
use remote::Remote;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug)]
pub struct StoreConfig {
    /// The directory on this host. It is created if it is missing, and must be private.
    pub dir: PathBuf,
    pub key: ServerKey,
    /// The bucket; without one, the directory has the only copies.
    pub remote: Option<RemoteConfig>,
    /// The budget of the directory in bytes: beyond it, archives that the bucket has are evicted. Without one there is
    /// no bound.
    pub cache_bytes: Option<u64>,
    /// The installation's random id, from its database.
    pub installation: String,
    /// The highest number that the database has given to an archive. A bucket that knows a higher one is neither
    /// changed nor swept; `u64::MAX` accepts every bucket of this installation.
    pub known_sequence: u64,
}

/// The archives of an installation. Clones share them.
#[derive(Clone)]
pub struct ArchiveStore {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    key: ServerKey,
    remote: Option<Remote>,
    cache_bytes: Option<u64>,
    claimant: Claimant,
    index: Arc<Index>,
    fetches: Fetches,
    /// Held during uploads, evictions and removals from the bucket, so that a removal never meets an upload under the
    /// same name.
    working: tokio::sync::Mutex<()>,
    sweeping: tokio::sync::Mutex<()>,
    /// While this file is open, no other server can use the directory.
    _lock: File,
}

impl ArchiveStore {
    /// Opens the directory for this process alone, removes from it what a killed server left unfinished, and finds out
    /// what is still to be uploaded. No request is made to the bucket, so that a server starts without it. Blocking;
    /// fails after five seconds if another server uses the directory.
    pub fn open(config: StoreConfig) -> Result<Self, StoreError> {
        let StoreConfig { dir, key, remote, cache_bytes, installation, known_sequence } = config;
        let lock = local::lock(&dir)?;
        local::clear_unfinished(&dir)?;
        if let Some(folder) = remote.as_ref().and_then(|remote| remote.folder.as_deref()) {
            config::clear_staged(folder)?;
        }
        let remote = remote.map(|remote| remote.remote);
        let index = Arc::new(Index::new(remote.is_some()));
        for found in local::scan(&dir)? {
            // Uploaded counts for the configured bucket alone: another one has to get everything first.
            let uploaded = remote.as_ref().is_some_and(|remote| found.uploaded_to.as_deref() == Some(&remote.identity));
            index.insert_found(&found.id, found.bytes, uploaded);
        }
        let claimant = Claimant { key: key.fingerprint().to_owned(), installation, known_sequence };
        let (fetches, working, sweeping) = Default::default();
        let inner = Inner { dir, key, remote, cache_bytes, claimant, index, fetches, working, sweeping, _lock: lock };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Begins the archive `id`, which must not exist in the directory yet. A checkpoint has a stamp, whose number the
    /// database has counted up before; bases and images, which can be made again, have none. Blocking.
    ///
    /// The archive's pin is taken before anything is written. The writer holds it, and [`ArchiveWriter::seal`] returns
    /// it to the caller, who keeps it until the row that names the archive is committed.
    pub fn begin(&self, id: &ArchiveId, stamp: Option<Stamp>) -> Result<ArchiveWriter, StoreError> {
        // Pinned from its beginning: a sweep that starts while it is written must not take it when it is sealed.
        let pin = self.inner.index.pin(id);
        Ok(ArchiveWriter::new(Writer::begin(&self.inner.dir, id, &self.inner.key, stamp)?, pin))
    }

    /// Opens the archive `id` in the directory. If it is not there, it is downloaded from the bucket (once, however
    /// many callers ask meanwhile), verified, and kept.
    pub async fn get(&self, id: &ArchiveId) -> Result<Archive, StoreError> {
        // Until it is open: a download that exceeds the budget would otherwise be evicted before it is used.
        let _pin = self.inner.index.pin(id);
        match self.inner.open_local(id).await? {
            Some(archive) => Ok(archive),
            None => self.inner.open_remote(id).await,
        }
    }

    /// Opens the archive `id` if it is in the directory. Nothing is fetched, and it does not count as a use, so that a
    /// look at many headers changes nothing about which archives are evicted first.
    pub async fn local(&self, id: &ArchiveId) -> Result<Option<Archive>, StoreError> {
        Ok(self.inner.open_in_dir(id).await??)
    }

    /// Pins the archive `id` if it exists in the directory or in the bucket. Whoever is about to commit another row
    /// that names it (a sandbox that names a base, say) keeps it from being swept meanwhile.
    pub async fn hold(&self, id: &ArchiveId) -> Result<Option<Pin>, StoreError> {
        // Pinned before the look, so that a sweep in between cannot take what is then reported as existing.
        let (name, pin) = (id.to_string(), self.inner.index.pin(id));
        if self.inner.index.contains(&name) {
            return Ok(Some(pin));
        }
        match &self.inner.remote {
            Some(remote) if !self.inner.index.is_pending_remote_delete(&name) => {
                Ok(remote.manifest(&name).await?.map(|_| pin))
            }
            _ => Ok(None),
        }
    }

    /// Removes the archive `id` from the directory now and from the bucket in the background. Readers that have opened
    /// it are not disturbed. It is no error if it does not exist.
    pub async fn remove(&self, id: &ArchiveId) -> Result<(), StoreError> {
        self.inner.remove_local(&id.to_string(), Reason::Removed).await.map(drop)
    }

    pub fn has_remote(&self) -> bool {
        self.inner.remote.is_some()
    }

    /// Counts the archives in the directory; those that only the bucket has are not known without a request to it.
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
    /// Opens the archive in the directory; none if it is not there. A damaged one that the bucket has as well is
    /// removed and counts as none, so that the caller fetches it.
    async fn open_local(&self, id: &ArchiveId) -> Result<Option<Archive>, StoreError> {
        let name = id.to_string();
        match self.open_in_dir(id).await? {
            // Not one that only another server can read: to exchange it for the bucket's copy, which is the same, would
            // only lose it here.
            Err(damage) if damage.is_damage() && !damage.is_of_another_server() && self.index.is_uploaded(&name) => {
                tracing::warn!(
                    archive = name, error = %chain(&damage),
                    "a stored archive is damaged; fetching the bucket's copy"
                );
                self.remove_local(&name, Reason::Damaged).await?;
                Ok(None)
            }
            opened => {
                self.index.touch(&name);
                Ok(opened?)
            }
        }
    }

    async fn open_in_dir(&self, id: &ArchiveId) -> Result<Result<Option<Archive>, ArchiveError>, StoreError> {
        let (dir, key, id) = (self.dir.join(id.to_string()), self.key.clone(), id.clone());
        blocking(move || match Archive::open(&dir, &id, &key) {
            // Looked at after the attempt, because an eviction may take the directory at any moment of it.
            Err(_) if std::fs::symlink_metadata(&dir).is_err() => Ok(None),
            opened => opened.map(Some),
        })
        .await
    }

    /// Removes the archive from the directory. False if it is not there, or if a pin protects it against this `reason`.
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

/// Runs file operations on a thread for blocking work, because a slow disk must not hold up the server's other tasks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(StoreError::Task)
}

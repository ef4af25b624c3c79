//! Bases and images in the object store: without them what is stored there would be of no use to a host that has lost
//! its own.
//!
//! ```text
//! store, collect_garbage ─► want ─► export: every base and image that something stored names, once
//!                                   (only with an object store)
//! restored, started ─► image_of, base_of: here, or ◄── fetched from its archive
//! ```

use super::host::Host;
use crate::catalog::Template;
use crate::error::{CheckpointError, chain};
use leapbox_bases::Base;
use leapbox_db::SandboxRow;
use leapbox_ids::{ArchiveId, BaseId, ImageDigest};
use leapbox_storage::{ArchiveWriter, StoreError};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// After the object store did not answer.
const EXPORT_AGAIN: Duration = Duration::from_secs(15);

/// Bases and images that something stored needs, still to be put into archives.
#[derive(Debug, Default)]
pub(super) struct Exports {
    wanted: Mutex<BTreeSet<ArchiveId>>,
    added: Notify,
}

impl Exports {
    /// Notes what is to be exported, of these ids of archives.
    pub fn want(&self, ids: impl Iterator<Item = ArchiveId>) {
        self.lock().extend(ids.filter(|id| !matches!(id, ArchiveId::Checkpoint(_))));
        self.added.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<ArchiveId>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    /// Puts into archives what is wanted, one after the other, until `stop`; uploading is the archives' business.
    pub(super) async fn keep_exported(&self, stop: &CancellationToken) {
        if !self.archives.has_remote() {
            return;
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.exports.added.notified() => {}
                () = tokio::time::sleep(EXPORT_AGAIN), if !self.exports.lock().is_empty() => {}
            }
            loop {
                let next = self.exports.lock().pop_first();
                let Some(id) = next else { break };
                tokio::select! {
                    () = stop.cancelled() => return,
                    exported = self.export(&id) => if exported.is_err() {
                        tracing::warn!(id = id.to_string(), "the object store does not answer: bases and images wait");
                        self.exports.lock().insert(id);
                        break;
                    },
                }
            }
        }
    }

    /// An error if the object store cannot be asked.
    async fn export(&self, id: &ArchiveId) -> Result<(), StoreError> {
        if self.archives.hold(id).await?.is_none()
            && let Err(error) = self.export_one(id).await
        {
            // The next garbage collection wants it again.
            tracing::warn!(id = id.to_string(), error, "a base or image could not be put into an archive");
        }
        Ok(())
    }

    async fn export_one(&self, id: &ArchiveId) -> Result<(), String> {
        let writer = || self.begin(id);
        if let ArchiveId::Image(digest) = id {
            let artifacts = self.catalog.artifacts().ok_or("no artifacts")?;
            let writer = writer().await.map_err(|error| chain(&error))?;
            return artifacts.export_image(digest, writer).await.map(drop).map_err(|error| chain(&error));
        }
        let ArchiveId::Base(base) = id else { return Ok(()) };
        let base = self.launcher.warm.by_id(base).await.map_err(|error| chain(&error))?;
        let base = base.ok_or("it is not here")?;
        let writer = writer().await.map_err(|error| chain(&error))?;
        self.launcher.warm.export_base(&base, writer).await.map(drop).map_err(|error| chain(&error))
    }

    async fn begin(&self, id: &ArchiveId) -> Result<ArchiveWriter, StoreError> {
        let (archives, id) = (self.archives.clone(), id.clone());
        tokio::task::spawn_blocking(move || archives.begin(&id)).await.map_err(StoreError::Task)?
    }

    /// The base of an archive, made one of this host's.
    pub(super) async fn fetch_base(&self, id: &BaseId) -> Result<Arc<Base>, CheckpointError> {
        let archive = self.archives.get(&ArchiveId::from(id)).await.map_err(|error| match error {
            StoreError::NotFound { .. } => CheckpointError::NoBase(None),
            error => CheckpointError::of_store(error),
        })?;
        self.launcher.warm.import_base(archive).await.map_err(|error| CheckpointError::NoBase(Some(error)))
    }

    /// The template of `row` with the image it was made from.
    pub(super) async fn image_of(
        &self,
        row: &SandboxRow,
        digest: &ImageDigest,
    ) -> Result<Arc<Template>, CheckpointError> {
        let missing = match self.catalog.version(&row.template, digest) {
            Ok(template) => return Ok(template),
            Err(missing) => CheckpointError::NoImage(missing),
        };
        let Some(artifacts) = self.catalog.artifacts().filter(|_| self.archives.has_remote()) else {
            return Err(missing);
        };
        let archive = self.archives.get(&ArchiveId::from(digest)).await.map_err(CheckpointError::of_store)?;
        let (image, config) = artifacts.import_image(archive).await.map_err(CheckpointError::NoImage)?;
        Ok(Arc::new(Template { id: row.template.clone(), image, config: Arc::new(config) }))
    }
}

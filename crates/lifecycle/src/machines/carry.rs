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
use crate::error::CheckpointError;
use leapbox_bases::{Base, BaseError};
use leapbox_errors::chain;
use leapbox_ids::{ArchiveId, BaseId, ImageDigest, TemplateId};
use leapbox_storage::{ArchiveWriter, StoreError};
use leapbox_templates::ArtifactError;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// After the object store did not answer.
const EXPORT_AGAIN: Duration = Duration::from_secs(15);

impl Host {
    /// Puts into archives what is wanted, one after the other, until `stop`; uploading is the archives' business.
    pub(super) async fn keep_exported(&self, stop: &CancellationToken) {
        if !self.storing.archives.has_remote() {
            return;
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.storing.exports.added() => {}
                () = tokio::time::sleep(EXPORT_AGAIN), if !self.storing.exports.is_empty() => {}
            }
            while let Some(id) = self.storing.exports.pop() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    exported = self.export(&id) => if exported.is_err() {
                        tracing::warn!(%id, "the object store does not answer: bases and images wait");
                        self.storing.exports.put_back(id);
                        break;
                    },
                }
            }
        }
    }

    /// An error if the object store cannot be asked.
    async fn export(&self, id: &ArchiveId) -> Result<(), StoreError> {
        if self.storing.archives.hold(id).await?.is_none()
            && let Err(error) = self.export_one(id).await
        {
            // The next garbage collection wants it again.
            tracing::warn!(%id, error = %chain(&error), "a base or image could not be put into an archive");
        }
        Ok(())
    }

    /// Nothing keeps the archive from being collected but what names it, which is why it was wanted.
    async fn export_one(&self, id: &ArchiveId) -> Result<(), ExportError> {
        match id {
            // It is in its archive.
            ArchiveId::Checkpoint(_) => {}
            ArchiveId::Image(digest) => {
                let artifacts = self.catalog.artifacts().ok_or(ExportError::NotHere)?;
                drop(artifacts.export_image(digest, self.begin(id).await?).await?);
            }
            ArchiveId::Base(base) => {
                let base = self.launcher.bases.by_id(base).await?.ok_or(ExportError::NotHere)?;
                drop(self.launcher.bases.export_base(&base, self.begin(id).await?).await?);
            }
        }
        Ok(())
    }

    async fn begin(&self, id: &ArchiveId) -> Result<ArchiveWriter, StoreError> {
        let (archives, id) = (self.storing.archives.clone(), id.clone());
        tokio::task::spawn_blocking(move || archives.begin(&id)).await.map_err(StoreError::Task)?
    }

    /// The base of an archive, made one of this host's.
    pub(super) async fn fetch_base(&self, id: &BaseId) -> Result<Arc<Base>, CheckpointError> {
        let archive = self.storing.archives.get(&id.into()).await.map_err(|error| match error {
            StoreError::NotFound { .. } => CheckpointError::NoBase(None),
            error => CheckpointError::of_store(error),
        })?;
        self.launcher.bases.import_base(archive).await.map_err(|error| CheckpointError::NoBase(Some(error)))
    }

    /// The template with the image `digest`, which it had when a sandbox was made from it.
    pub(super) async fn image_of(
        &self,
        id: &TemplateId,
        digest: &ImageDigest,
    ) -> Result<Arc<Template>, CheckpointError> {
        let missing = match self.catalog.version(id, digest) {
            Ok(template) => return Ok(template),
            Err(missing) => CheckpointError::NoImage(missing),
        };
        let Some(artifacts) = self.catalog.artifacts().filter(|_| self.storing.archives.has_remote()) else {
            return Err(missing);
        };
        let archive = self.storing.archives.get(&digest.into()).await.map_err(CheckpointError::of_store)?;
        let (image, config) = artifacts.import_image(archive).await.map_err(CheckpointError::NoImage)?;
        Ok(Arc::new(Template { id: id.clone(), image, config: Arc::new(config) }))
    }
}

/// Why a base or image is not in an archive.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("it is not on this host")]
    NotHere,
    #[error("its archive could not be begun")]
    Store(#[from] StoreError),
    #[error("the image could not be packed")]
    Image(#[from] ArtifactError),
    #[error("the base could not be packed")]
    Base(#[from] BaseError),
}

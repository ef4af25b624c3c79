//! Exports bases and images to the object store and imports them from it. A checkpoint is only a difference to its
//! base, so a host that has lost its directory needs them as well to wake what is in the bucket.
//!
//! ```text
//! store, collect_garbage ─► want ─► export: every base and image that a checkpoint or row names, once
//!                                   (only with an object store)
//! restored, started ─► image_of, base_of: on this host, or ◄── imported from its archive
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

/// How long after the object store did not answer the exports are tried again.
const EXPORT_RETRY: Duration = Duration::from_secs(15);

impl Host {
    /// Writes queued bases and images into archives, one after the other, until `stop`. The archive store uploads them.
    pub(super) async fn keep_exported(&self, stop: &CancellationToken) {
        // Without a bucket an archive would only be a second copy on the same disk.
        if !self.store_context.archives.has_remote() {
            return;
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.store_context.exports.added() => {}
                () = tokio::time::sleep(EXPORT_RETRY), if !self.store_context.exports.is_empty() => {}
            }
            while let Some(id) = self.store_context.exports.pop() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    exported = self.export(&id) => if exported.is_err() {
                        tracing::warn!(
                            %id,
                            "the object store does not answer: the export of bases and images is tried again"
                        );
                        self.store_context.exports.put_back(id);
                        break;
                    },
                }
            }
        }
    }

    /// Exports a base or image unless its archive exists. An error means that the object store could not be asked.
    async fn export(&self, id: &ArchiveId) -> Result<(), StoreError> {
        if self.store_context.archives.hold(id).await?.is_none()
            && let Err(error) = self.export_one(id).await
        {
            // Not retried at once, because a base that cannot be read stays so. The next garbage collection queues all
            // that rows name again.
            tracing::warn!(%id, error = %chain(&error), "a base or image could not be put into an archive");
        }
        Ok(())
    }

    /// Writes the archive. Its pin is dropped at once: the row for which it was queued protects it from now on.
    async fn export_one(&self, id: &ArchiveId) -> Result<(), ExportError> {
        match id {
            // A checkpoint is an archive already, and is never queued.
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
        let (archives, id) = (self.store_context.archives.clone(), id.clone());
        tokio::task::spawn_blocking(move || archives.begin(&id, None)).await.map_err(StoreError::Task)?
    }

    /// Imports a base from its archive.
    pub(super) async fn fetch_base(&self, id: &BaseId) -> Result<Arc<Base>, CheckpointError> {
        let archive = self.store_context.archives.get(&id.into()).await.map_err(|error| match error {
            StoreError::NotFound { .. } => CheckpointError::NoBase(None),
            error => CheckpointError::of_store(error),
        })?;
        self.launcher.bases.import_base(archive).await.map_err(|error| CheckpointError::NoBase(Some(error)))
    }

    /// The template with the image `digest`, imported from its archive if it is not on this host.
    pub(super) async fn image_of(
        &self,
        id: &TemplateId,
        digest: &ImageDigest,
    ) -> Result<Arc<Template>, CheckpointError> {
        let missing = match self.catalog.version(id, digest) {
            Ok(template) => return Ok(template),
            Err(missing) => CheckpointError::NoImage(missing),
        };
        let Some(artifacts) = self.catalog.artifacts().filter(|_| self.store_context.archives.has_remote()) else {
            return Err(missing);
        };
        let archive = self.store_context.archives.get(&digest.into()).await.map_err(CheckpointError::of_store)?;
        let (image, config) = artifacts.import_image(archive).await.map_err(CheckpointError::NoImage)?;
        Ok(Arc::new(Template { id: id.clone(), image, config: Arc::new(config) }))
    }
}

/// An error of exporting a base or image.
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

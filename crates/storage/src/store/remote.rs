//! The bucket: an S3 prefix, or a directory that stands in for one.
//!
//! ```text
//! <prefix>/installation.json    the installation that owns the prefix, and the number of its newest archive (`owner`)
//!          <id>/memory, …       the parts of an archive, the same bytes as in the local directory
//!          <id>/manifest.json   put last and removed first: an archive with a manifest is complete
//! ```
//!
//! A prefix belongs to one installation with one server. Archives that this server does not know are garbage to it, so
//! the first object keeps a second installation, and this one with an older database, from removing them.

use super::error::StoreError;
use crate::archive::{MANIFEST, MANIFEST_MAX, check_name};
use bytes::Bytes;
use futures::TryStreamExt;
use leapbox_errors::chain;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{Error as ObjectError, GetResult, ObjectStore, ObjectStoreExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Bytes of one request of an upload.
// S3 wants at least 5 MiB in each part of a multipart upload and takes at most 10,000 of them, so that 8 MiB allow
// files of 80 GB. An upload sends three pieces at a time, which bounds the memory it takes.
pub(super) const PIECE: usize = 8 << 20;
const REQUESTS: usize = 3;

/// A prefix of an object store, as a client of it. Clones share the connections.
#[derive(Clone)]
pub(super) struct Remote {
    pub objects: Arc<dyn ObjectStore>,
    pub prefix: Path,
    /// The URL as configured, without a slash at its end.
    pub url: String,
    /// The URL with the address of the S3 server, because two servers may have buckets of the same name. It is what the
    /// marker of an uploaded archive says.
    pub identity: String,
    /// The number in the object that names the owner; none until the prefix is known to belong to this installation.
    pub found_sequence: Arc<Mutex<Option<u64>>>,
}

impl Remote {
    fn object(&self, id: &str, name: &str) -> Path {
        self.prefix.clone().join(id).join(name)
    }

    /// Reads the manifest's bytes; none if the bucket has no such archive, or not all of it.
    pub async fn manifest(&self, id: &str) -> Result<Option<Bytes>, StoreError> {
        match self.read(&self.object(id, MANIFEST), "reading").await {
            Err(StoreError::Remote { source: ObjectError::NotFound { .. }, .. }) => Ok(None),
            found => found.map(Some),
        }
    }

    /// Reads a small object into memory.
    pub async fn read(&self, object: &Path, step: &'static str) -> Result<Bytes, StoreError> {
        let found = self.objects.get(object).await.map_err(failed(step, object))?;
        // Before the body is read: whoever can write the bucket must not decide how much memory that takes.
        if found.meta.size > MANIFEST_MAX {
            return Err(wrong_length(object, found.meta.size, MANIFEST_MAX));
        }
        found.bytes().await.map_err(failed(step, object))
    }

    /// Opens a part, which must have `length` bytes by its manifest.
    pub async fn part(&self, id: &str, name: &str, length: u64) -> Result<GetResult, StoreError> {
        let object = self.object(id, name);
        let found = self.objects.get(&object).await.map_err(failed("reading", &object))?;
        if found.meta.size != length {
            return Err(wrong_length(&object, found.meta.size, length));
        }
        Ok(found)
    }

    /// Puts one small object in a single request.
    pub async fn put(&self, id: &str, name: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        let object = self.object(id, name);
        self.objects.put(&object, bytes.into()).await.map_err(failed("writing", &object)).map(drop)
    }

    /// Puts an object piece by piece, as `next` returns them, until it returns none.
    pub async fn put_pieces<F>(&self, id: &str, name: &str, mut next: impl FnMut() -> F) -> Result<(), StoreError>
    where
        F: Future<Output = Result<Option<Bytes>, StoreError>>,
    {
        let object = self.object(id, name);
        let writer = BufWriter::with_capacity(Arc::clone(&self.objects), object.clone(), PIECE);
        let mut writer = writer.with_max_concurrency(REQUESTS);
        let written = loop {
            match next().await {
                Ok(Some(piece)) => match writer.put(piece).await {
                    Ok(()) => {}
                    Err(e) => break Err(failed("writing", &object)(e)),
                },
                Ok(None) => break Ok(()),
                Err(e) => break Err(e),
            }
        };
        match written {
            Ok(()) => {
                let ended = tokio::io::AsyncWriteExt::shutdown(&mut writer).await;
                let generic = |e| ObjectError::Generic { store: "upload", source: Box::new(e) };
                ended.map_err(generic).map_err(failed("writing", &object))
            }
            Err(e) => {
                // Parts of an upload that is neither completed nor aborted are invisible in S3, and paid for.
                if let Err(left) = writer.abort().await {
                    tracing::warn!(
                        %object, error = %chain(&left),
                        "an upload could not be aborted; parts of it may be left in the object store"
                    );
                }
                Err(e)
            }
        }
    }

    /// Removes an archive. It may be called again after it failed half way.
    pub async fn remove(&self, id: &str) -> Result<(), StoreError> {
        let manifest = self.object(id, MANIFEST);
        let parts = self.list_objects(&self.prefix.clone().join(id)).await?;
        // The manifest first: without it the archive does not exist for any reader, whatever else is left of it.
        for object in std::iter::once(manifest.clone()).chain(parts.into_iter().filter(|part| *part != manifest)) {
            match self.objects.delete(&object).await {
                // S3 says nothing of a deleted object that did not exist; a directory does.
                Ok(()) | Err(ObjectError::NotFound { .. }) => {}
                Err(e) => return Err(failed("removing", &object)(e)),
            }
        }
        Ok(())
    }

    /// Lists the ids of which the bucket has any object, and whether each archive is complete.
    pub async fn list(&self) -> Result<BTreeMap<String, bool>, StoreError> {
        let mut ids = BTreeMap::new();
        for object in self.list_objects(&self.prefix).await? {
            // Exactly `<id>/<name>`: objects that others keep under the prefix are no archives, and must not be swept.
            let mut names = object.prefix_match(&self.prefix).into_iter().flatten();
            let (Some(id), Some(name), None) = (names.next(), names.next(), names.next()) else {
                continue;
            };
            if check_name(id.as_ref()).is_ok() {
                *ids.entry(id.as_ref().to_owned()).or_default() |= name.as_ref() == MANIFEST;
            }
        }
        Ok(ids)
    }

    async fn list_objects(&self, prefix: &Path) -> Result<Vec<Path>, StoreError> {
        let objects = self.objects.list(Some(prefix)).map_ok(|meta| meta.location);
        objects.try_collect().await.map_err(failed("listing", prefix))
    }
}

pub(super) fn failed(step: &'static str, object: &Path) -> impl FnOnce(ObjectError) -> StoreError {
    let object = object.to_string();
    move |source| StoreError::Remote { step, object, source }
}

pub(super) fn wrong_length(object: &Path, found: u64, expected: u64) -> StoreError {
    StoreError::RemoteLength { object: object.to_string(), found, expected }
}

//! The bucket: an S3 prefix, or a folder that stands in for one.
//!
//! ```text
//! <prefix>/installation.json    whose it is: the fingerprint of a server's key
//!          <id>/memory, …       the parts of an archive, as in the local folder
//!          <id>/manifest.json   put last and removed first: an archive with a manifest is complete
//! ```
//!
//! A prefix belongs to one installation with one server. What that server does not know is garbage to it; the first
//! object keeps a second installation with another key from finding out.

use super::error::StoreError;
use crate::archive::{MANIFEST, MANIFEST_MAX, check_name};
use bytes::Bytes;
use futures::TryStreamExt;
use leapbox_errors::chain;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{Error as ObjectError, GetResult, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// Bytes of an upload that are in memory at a time: so many, in so many requests at once (S3 wants at least 5 MiB each
/// and takes at most 10,000 of them, which is 80 GB).
pub(super) const PIECE: usize = 8 << 20;
const REQUESTS: usize = 3;
/// Has a dot, as no archive's id does.
const OWNER: &str = "installation.json";

#[derive(Serialize, Deserialize)]
struct Owner {
    key: String,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct Remote {
    pub objects: Arc<dyn ObjectStore>,
    pub prefix: Path,
    /// Where it is, as configured.
    pub url: String,
    /// The same with the server's address: another server's bucket of that name is another bucket.
    pub identity: String,
    /// Set once the prefix is known to be ours.
    pub ours: Arc<OnceCell<()>>,
}

impl Remote {
    fn object(&self, id: &str, name: &str) -> Path {
        self.prefix.clone().join(id).join(name)
    }

    /// Makes sure that the prefix is of the installation with the key `fingerprint`; if it is nobody's, it is ours now.
    pub async fn claim(&self, fingerprint: &str) -> Result<(), StoreError> {
        self.ours.get_or_try_init(|| self.check_owner(fingerprint)).await.copied()
    }

    async fn check_owner(&self, fingerprint: &str) -> Result<(), StoreError> {
        let object = self.prefix.clone().join(OWNER);
        let found = match self.read(&object, "reading whose the prefix is").await {
            Err(StoreError::Remote { source: ObjectError::NotFound { .. }, .. }) => {
                let text = serde_json::json!(Owner { key: fingerprint.to_owned() }).to_string();
                match self.objects.put_opts(&object, text.into(), PutOptions::from(PutMode::Create)).await {
                    Ok(_) => return Ok(()),
                    Err(ObjectError::AlreadyExists { .. }) => self.read(&object, "reading whose the prefix is").await?,
                    Err(e) => return Err(failed("claiming the prefix", &object)(e)),
                }
            }
            found => found?,
        };
        match serde_json::from_slice::<Owner>(&found) {
            Ok(owner) if owner.key == fingerprint => Ok(()),
            Ok(owner) => Err(StoreError::OtherInstallation { url: self.url.clone(), found: owner.key }),
            Err(_) => Err(StoreError::OtherInstallation { url: self.url.clone(), found: "unreadable".to_owned() }),
        }
    }

    /// The manifest's bytes; none if the bucket has no such archive.
    pub async fn manifest(&self, id: &str) -> Result<Option<Bytes>, StoreError> {
        match self.read(&self.object(id, MANIFEST), "reading").await {
            Err(StoreError::Remote { source: ObjectError::NotFound { .. }, .. }) => Ok(None),
            found => found.map(Some),
        }
    }

    /// A small object, whose length is looked at before its bytes are.
    async fn read(&self, object: &Path, step: &'static str) -> Result<Bytes, StoreError> {
        let found = self.objects.get(object).await.map_err(failed(step, object))?;
        if found.meta.size > MANIFEST_MAX {
            return Err(wrong_length(object, found.meta.size, MANIFEST_MAX));
        }
        found.bytes().await.map_err(failed(step, object))
    }

    /// Opens a part, which must have `length` bytes.
    pub async fn part(&self, id: &str, name: &str, length: u64) -> Result<GetResult, StoreError> {
        let object = self.object(id, name);
        let found = self.objects.get(&object).await.map_err(failed("reading", &object))?;
        if found.meta.size != length {
            return Err(wrong_length(&object, found.meta.size, length));
        }
        Ok(found)
    }

    /// Puts one small object.
    pub async fn put(&self, id: &str, name: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        let object = self.object(id, name);
        self.objects.put(&object, bytes.into()).await.map_err(failed("writing", &object)).map(drop)
    }

    /// Puts an object piece by piece, as `next` gives them, none being the end. What cannot be ended is aborted, so
    /// that no piece of it stays.
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
                if let Err(left) = writer.abort().await {
                    tracing::warn!(%object, error = %chain(&left), "pieces of an upload may be left in the object store");
                }
                Err(e)
            }
        }
    }

    /// Removes all of an archive, the manifest first.
    pub async fn remove(&self, id: &str) -> Result<(), StoreError> {
        let manifest = self.object(id, MANIFEST);
        let parts = self.list_objects(&self.prefix.clone().join(id)).await?;
        for object in std::iter::once(manifest.clone()).chain(parts.into_iter().filter(|part| *part != manifest)) {
            match self.objects.delete(&object).await {
                Ok(()) | Err(ObjectError::NotFound { .. }) => {}
                Err(e) => return Err(failed("removing", &object)(e)),
            }
        }
        Ok(())
    }

    /// All ids there is anything of, and whether they are complete.
    pub async fn list(&self) -> Result<BTreeMap<String, bool>, StoreError> {
        let mut ids = BTreeMap::new();
        for object in self.list_objects(&self.prefix).await? {
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

fn failed(step: &'static str, object: &Path) -> impl FnOnce(ObjectError) -> StoreError {
    let object = object.to_string();
    move |source| StoreError::Remote { step, object, source }
}

pub(super) fn wrong_length(object: &Path, found: u64, expected: u64) -> StoreError {
    StoreError::RemoteLength { object: object.to_string(), found, expected }
}

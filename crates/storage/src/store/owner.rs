//! The object that says whose a prefix is, and how new its newest archive is: `installation.json`.
//!
//! ```text
//! claim, before anything is written, removed or swept:
//!   no object                     ─► put, if nobody else has done so meanwhile
//!   other key or installation     ─► OtherInstallation
//!   number above the database's   ─► OlderDatabase: the archives that this database does not name are no garbage
//!   no installation               ─► an earlier version has put it: put again, with the installation
//!
//! upload of an archive: its parts ─► raise_sequence, if the number in the object is lower ─► its manifest
//! ```
//!
//! The number is raised before the archive is complete, so that no complete archive has a higher one. A server that is
//! killed in between leaves a number that is too high for the bucket, but never for the newest database, which has
//! counted up to it before the archive was begun.

use super::ArchiveStore;
use super::error::StoreError;
use super::remote::{Remote, failed};
use object_store::path::Path;
use object_store::{Error as ObjectError, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

/// The object that names the owner. No archive has this name, because it contains a dot.
pub(super) const OWNER: &str = "installation.json";
const READING: &str = "reading the owner of the prefix";
const CLAIMING: &str = "claiming the prefix";
const WRITING: &str = "writing the owner of the prefix";

/// The installation of this server, which a prefix must belong to.
pub(super) struct Claimant {
    /// The fingerprint of the server's key.
    pub key: String,
    /// The installation's random id, from its database.
    pub installation: String,
    /// The highest number that the database had given to an archive when this server started.
    pub known_sequence: u64,
}

/// The object's contents. Fields that it does not have are left out, and unknown ones are ignored.
#[derive(Serialize, Deserialize)]
struct Owner {
    key: String,
    /// Missing if an earlier version has put the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    installation: Option<String>,
    /// The highest number of an uploaded archive; missing as long as none with a number was uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
}

impl ArchiveStore {
    /// Asks the bucket now for the highest number of an archive in it; none without a bucket, or if no archive with a
    /// number was uploaded. It writes nothing, and does not compare the number with the database's, so that a server
    /// can ask before it touches anything. [`StoreError::OtherInstallation`] if the prefix belongs to another one.
    pub async fn owner_sequence(&self) -> Result<Option<u64>, StoreError> {
        match &self.inner.remote {
            Some(remote) => Ok(remote.owner(&self.inner.claimant).await?.and_then(|owner| owner.sequence)),
            None => Ok(None),
        }
    }
}

impl Remote {
    /// Makes sure that the prefix belongs to `claimant` and has nothing that is newer than its database, and makes it
    /// the owner if there is none. Called before anything is written, removed or swept.
    pub async fn claim(&self, claimant: &Claimant) -> Result<(), StoreError> {
        self.raise_sequence(claimant, 0).await
    }

    /// Claims the prefix, and raises the number in the object to `sequence` if it is lower.
    pub async fn raise_sequence(&self, claimant: &Claimant, sequence: u64) -> Result<(), StoreError> {
        // Held during the requests, so that a claim never puts a number back that was raised since it was read.
        let mut found = self.found_sequence.lock().await;
        let known = match *found {
            Some(known) => known,
            // Asked once per life of the server; a failed attempt is not kept.
            None => self.check_owner(claimant).await?,
        };
        if known < sequence {
            self.put_owner(claimant, Some(sequence)).await?;
        }
        *found = Some(known.max(sequence));
        Ok(())
    }

    /// Returns the number in the object, 0 if it has none.
    async fn check_owner(&self, claimant: &Claimant) -> Result<u64, StoreError> {
        let owner = match self.owner(claimant).await? {
            Some(owner) => owner,
            None => self.create_owner(claimant).await?,
        };
        let found = owner.sequence.unwrap_or(0);
        if found > claimant.known_sequence {
            return Err(StoreError::OlderDatabase { url: self.url.clone(), database: claimant.known_sequence, found });
        }
        if owner.installation.is_none() {
            self.put_owner(claimant, owner.sequence).await?;
        }
        Ok(found)
    }

    /// Reads the object, which must be that of `claimant`; none if there is no object.
    async fn owner(&self, claimant: &Claimant) -> Result<Option<Owner>, StoreError> {
        let text = match self.read(&self.owner_object(), READING).await {
            Err(StoreError::Remote { source: ObjectError::NotFound { .. }, .. }) => return Ok(None),
            text => text?,
        };
        let other = |what, found| Err(StoreError::OtherInstallation { url: self.url.clone(), what, found });
        // Whatever an unreadable object is, it is not ours. Overwriting it would mean to sweep somebody's archives.
        let Ok(owner) = serde_json::from_slice::<Owner>(&text) else {
            return other(OWNER, "unreadable".to_owned());
        };
        if owner.key != claimant.key {
            return other("key", owner.key);
        }
        match &owner.installation {
            Some(found) if *found != claimant.installation => other("id", found.clone()),
            _ => Ok(Some(owner)),
        }
    }

    async fn create_owner(&self, claimant: &Claimant) -> Result<Owner, StoreError> {
        let (object, owner) = (self.owner_object(), claimant.owner(None));
        // A conditional write, so that of two installations that claim the prefix at once only one succeeds.
        let options = PutOptions::from(PutMode::Create);
        match self.objects.put_opts(&object, owner.text().into(), options).await {
            Ok(_) => Ok(owner),
            Err(taken @ ObjectError::AlreadyExists { .. }) => {
                self.owner(claimant).await?.ok_or_else(|| failed(CLAIMING, &object)(taken))
            }
            Err(e) => Err(failed(CLAIMING, &object)(e)),
        }
    }

    async fn put_owner(&self, claimant: &Claimant, sequence: Option<u64>) -> Result<(), StoreError> {
        let (object, text) = (self.owner_object(), claimant.owner(sequence).text());
        self.objects.put(&object, text.into()).await.map_err(failed(WRITING, &object)).map(drop)
    }

    fn owner_object(&self) -> Path {
        self.prefix.clone().join(OWNER)
    }
}

impl Claimant {
    fn owner(&self, sequence: Option<u64>) -> Owner {
        Owner { key: self.key.clone(), installation: Some(self.installation.clone()), sequence }
    }
}

impl Owner {
    fn text(&self) -> String {
        serde_json::json!(self).to_string()
    }
}

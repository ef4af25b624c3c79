//! Errors of the store of archives.

use crate::{ArchiveError, PrivateError};
use leapbox_errors::FileError;
use leapbox_ids::ArchiveId;
use std::path::PathBuf;
use std::sync::Arc;

/// An archive could not be stored, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Folder(#[from] PrivateError),
    #[error(transparent)]
    File(#[from] FileError),
    /// Two servers in one directory would remove archives that the other one is writing.
    #[error("{path} is in use by another server: stop that one, or configure another data directory")]
    InUse { path: PathBuf },
    /// The archive exists neither in the directory nor in the bucket.
    #[error("there is no archive {id}")]
    NotFound { id: ArchiveId },
    /// The URL's path after the bucket cannot be the beginning of objects' names.
    #[error("{url} cannot be the object store: the prefix after the bucket's name is not valid")]
    Prefix {
        url: String,
        #[source]
        source: object_store::path::Error,
    },
    #[error("{url} cannot be the object store: {why}")]
    Url { url: String, why: &'static str },
    /// The object store's settings (`AWS_…`) are incomplete or contradict each other.
    #[error("the settings of the object store {url} cannot be used")]
    Settings {
        url: String,
        #[source]
        source: object_store::Error,
    },
    /// A request to the object store failed, also when it was tried again.
    #[error("{step} in the object store: {object}")]
    Remote {
        step: &'static str,
        object: String,
        #[source]
        source: object_store::Error,
    },
    /// The object is not as long as its manifest says. `found` is its length, or the number of bytes after which the
    /// download of a longer one was ended.
    #[error("the object {object} has {found} bytes and was sealed with {expected}")]
    RemoteLength { object: String, found: u64, expected: u64 },
    /// The prefix belongs to another installation, whose archives this server would take for garbage. `what` differs:
    /// `key` (then `found` is the fingerprint of its server key), `id`, or `installation.json`, which is not ours.
    #[error(
        "the object store {url} belongs to another installation, whose {what} is {found}: give this one another \
         prefix, or, if it is meant to be the same, put its database and its key back"
    )]
    OtherInstallation { url: String, what: &'static str, found: String },
    /// The bucket has an archive with the number `found`, and the database had counted only to `database`.
    #[error(
        "the object store {url} has stored sandboxes that are newer than the database (number {found}, and the \
         database has counted to {database}), so nothing is written, removed or swept there: put the newest database \
         back, or start once with `leapbox serve --accept-older-database`"
    )]
    OlderDatabase { url: String, database: u64, found: u64 },
    /// The download failed, or the downloaded archive must not be used. All callers that waited for it get this error.
    #[error("fetching the archive {id} from the object store")]
    Fetch {
        id: ArchiveId,
        #[source]
        source: Arc<StoreError>,
    },
    /// The archive was removed during its upload, or the server ends.
    #[error("the upload of {id} was cancelled")]
    UploadCancelled { id: ArchiveId },
    #[error("a blocking task of the archive store panicked or was cancelled")]
    Task(#[source] tokio::task::JoinError),
}

impl StoreError {
    /// Whether the bucket says that this server, or its database, is not the one whose archives it has. Then nothing
    /// may be removed here either: what looks like garbage or like a spare copy may be all that is left.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::OtherInstallation { .. } | Self::OlderDatabase { .. })
    }
}

//! What the store of archives can fail at.

use crate::{ArchiveError, PrivateError};
use leapbox_errors::FileError;
use leapbox_ids::ArchiveId;
use std::path::PathBuf;
use std::sync::Arc;

/// Why an archive could not be stored, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An archive could not be written or must not be used.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The folder cannot hold what must stay private.
    #[error(transparent)]
    Folder(#[from] PrivateError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Two servers on one folder would remove what the other one is writing.
    #[error("{path} is in use by another server")]
    InUse { path: PathBuf },
    /// There is no such archive, neither in the folder nor in the bucket.
    #[error("there is no archive {id}")]
    NotFound { id: ArchiveId },
    /// What follows the bucket in the object store's URL cannot begin the names of objects.
    #[error("{url} cannot be the object store: its prefix cannot be one")]
    Prefix {
        url: String,
        #[source]
        source: object_store::path::Error,
    },
    /// The object store's URL is none that can be used.
    #[error("{url} cannot be the object store: {why}")]
    Url {
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The object store's settings (`AWS_…`) do not go together.
    #[error("the settings of the object store {url} cannot be used")]
    Settings {
        url: String,
        /// What is wrong with them.
        #[source]
        source: object_store::Error,
    },
    /// A request to the object store failed, after some tries.
    #[error("{step} in the object store: {object}")]
    Remote {
        step: &'static str,
        object: String,
        #[source]
        source: object_store::Error,
    },
    /// The object is not as long as its manifest says.
    #[error("the object {object} has {found} bytes and was sealed with {expected}")]
    RemoteLength {
        object: String,
        /// Bytes it has, or that came before it was too many.
        found: u64,
        expected: u64,
    },
    /// Everything under the prefix that this server does not know would be garbage to it.
    #[error(
        "the object store {url} belongs to another installation, whose key is {found}: give this one another prefix"
    )]
    OtherInstallation {
        url: String,
        /// That installation's key, by its fingerprint.
        found: String,
    },
    /// What came from the bucket cannot be used, or nothing came.
    #[error("the archive {id} cannot be had from the object store")]
    Fetch {
        id: ArchiveId,
        /// Why not; one attempt for all who asked.
        #[source]
        source: Arc<StoreError>,
    },
    /// The archive was removed, or the server is about to end.
    #[error("the upload of {id} was given up")]
    GivenUp { id: ArchiveId },
    /// A blocking task was cancelled or panicked.
    #[error("a task of the store did not end as it should")]
    Task(#[source] tokio::task::JoinError),
}

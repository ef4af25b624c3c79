//! Errors of storing a sandbox as a checkpoint, and of using a stored one.

use super::cause::{find, is_disk_full};
use super::{FULL_RETRY_S, LaunchError, LifecycleError};
use leapbox_api_types::ApiError;
use leapbox_bases::BaseError;
use leapbox_db::DbError;
use leapbox_errors::chain;
use leapbox_storage::{ArchiveError, StorageError, StoreError};
use leapbox_templates::ArtifactError;
use leapbox_vmm::VmmError;

/// An error of storing a sandbox, or of making a machine from a checkpoint. The texts are for the sandbox's owner:
/// paths and programs of the host are in the causes.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The machine could not be suspended, or its memory or device state not be read.
    #[error("the virtual machine could not be stored")]
    Vmm(#[source] VmmError),
    /// Storing it, or fetching it from the bucket, took longer than `seconds`.
    #[error("the sandbox could not be stored or fetched within {seconds} s")]
    TimedOut { seconds: u64 },
    /// Answered 507: waiting does not help, deleting something does.
    #[error("the host has no disk space to store the sandbox; free some space, or delete sandboxes and snapshots")]
    DiskFull(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The disk of a sandbox that is being stopped is not there, so there is nothing left to store.
    #[error("the sandbox's disk is lost")]
    DiskLost,
    #[error("the sandbox could not be stored")]
    Write(#[source] StoreError),
    /// Its archive is missing, or is not what was sealed.
    #[error("the sandbox's checkpoint is damaged or missing ({part})")]
    Damaged {
        /// The archive's file, without its directory; or "all of it".
        part: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The archive's header contradicts the sandbox's row.
    #[error("the sandbox's checkpoint is not the one that its row names: another {what}")]
    Mismatch { what: &'static str },
    /// This host cannot make machines of the stored kind (any more).
    #[error(
        "the sandbox was stored with another CPU model, VMM or kernel than this host has now (stored for \
         {stored:.12}, here is {here:.12}); it wakes where those are the same"
    )]
    Incompatible {
        /// Compatibility key in the archive's header.
        stored: String,
        /// Compatibility key of this host for the same shape and image.
        here: String,
    },
    /// A checkpoint's memory is a difference to its base, so without the base nothing can be restored or stored.
    #[error("the sandbox's base snapshot is missing or damaged")]
    NoBase(#[source] Option<BaseError>),
    #[error("the sandbox's image is missing or damaged")]
    NoImage(#[source] ArtifactError),
    /// The directory or the bucket could not be read; nothing says that the archive is damaged.
    #[error("the sandbox's checkpoint cannot be fetched now")]
    Store(#[source] StoreError),
    #[error("the sandbox's disk could not be copied")]
    Disk(#[source] StorageError),
    /// The database did not give the checkpoint a number, which is on disk before the checkpoint is.
    #[error("the sandbox could not be stored: the database failed")]
    Number(#[source] DbError),
    #[error("storing was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
}

impl CheckpointError {
    /// The answer to the client, whose message is this error's text. Logs the error with its causes.
    pub(super) fn answer(&self, message: String) -> ApiError {
        tracing::warn!(
            event = "checkpoint_unusable", error = %chain(self),
            "a checkpoint could not be written or used"
        );
        match self {
            CheckpointError::DiskFull(_) => ApiError::InsufficientStorage(message),
            CheckpointError::Store(_) | CheckpointError::TimedOut { .. } => {
                ApiError::Unavailable { message, retry_after_s: FULL_RETRY_S }
            }
            // The same request would fail again, so no `Retry-After`.
            CheckpointError::Damaged { .. }
            | CheckpointError::Mismatch { .. }
            | CheckpointError::Incompatible { .. }
            | CheckpointError::NoBase(_)
            | CheckpointError::NoImage(_) => ApiError::Conflict(message),
            CheckpointError::Vmm(_)
            | CheckpointError::DiskLost
            | CheckpointError::Write(_)
            | CheckpointError::Disk(_)
            | CheckpointError::Number(_)
            | CheckpointError::Interrupted(_) => ApiError::Internal,
        }
    }

    /// Maps an error of opening or fetching an archive: damage that lasts, or a store that cannot be reached just now.
    pub(crate) fn of_store(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { .. } => Self::damaged(error),
            StoreError::Archive(ref source) if source.is_damage() => Self::damaged(error),
            StoreError::Fetch { ref source, .. } if is_damage(source) => Self::damaged(error),
            error => Self::Store(error),
        }
    }

    /// Maps an error of writing an archive.
    pub(crate) fn of_writing(error: StoreError) -> Self {
        if is_disk_full(&error) { Self::DiskFull(Box::new(error)) } else { Self::Write(error) }
    }

    /// Maps an error of giving the checkpoint its number.
    pub(crate) fn of_number(error: DbError) -> Self {
        if error.is_disk_full() { Self::DiskFull(Box::new(error)) } else { Self::Number(error) }
    }

    /// Maps the refusal of disk space for an archive.
    pub(crate) fn of_full_disk(error: LifecycleError) -> Self {
        Self::DiskFull(Box::new(error))
    }

    /// Maps an error of a launch from a checkpoint.
    pub(crate) fn of_launch(error: LaunchError) -> LifecycleError {
        // The archive is read and authenticated while the VMM starts, so damage comes out of the launch as a cause of a
        // disk or VMM error.
        match find::<ArchiveError>(&error).is_some_and(ArchiveError::is_damage) {
            true => Self::damaged(error).into(),
            false => error.into(),
        }
    }

    fn damaged(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        // Only the file's name: its owner must not learn the host's paths (`test_stored.py` checks that).
        let file = find::<ArchiveError>(&error).and_then(ArchiveError::file);
        let part = file
            .and_then(|path| path.file_name())
            .map_or_else(|| "all of it".to_owned(), |name| name.to_string_lossy().into_owned());
        Self::Damaged { part, source: Box::new(error) }
    }
}

/// Whether the archive in the bucket is not the one that was sealed, as opposed to a bucket that cannot be read now.
fn is_damage(error: &StoreError) -> bool {
    match error {
        StoreError::Archive(error) => error.is_damage(),
        // The manifest is uploaded last, so an archive that has one and lacks a part, or has it in another length, was
        // changed by somebody.
        StoreError::NotFound { .. } | StoreError::RemoteLength { .. } => true,
        _ => false,
    }
}

//! Why a sandbox could not be stored, or what is stored of it cannot be used.

use super::{FULL_RETRY_S, LaunchError, LifecycleError};
use leapbox_api_types::ApiError;
use leapbox_bases::BaseError;
use leapbox_errors::chain;
use leapbox_storage::{ArchiveError, StorageError, StoreError};
use leapbox_templates::ArtifactError;
use leapbox_vmm::VmmError;

/// Why a sandbox could not be stored, or what is stored of it cannot be used. The texts are for its owner: what is the
/// host's own (paths, programs) is in the causes.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The machine could not be stopped or did not tell its state.
    #[error("the virtual machine could not be stored")]
    Vmm(#[source] VmmError),
    /// It took too long.
    #[error("the virtual machine could not be stored in {seconds} s")]
    Late {
        /// How long it was given.
        seconds: u64,
    },
    /// The host has no room for it.
    #[error("the host has no room to store the sandbox; free some space, or delete sandboxes and snapshots")]
    NoRoom(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is nothing to store any more.
    #[error("its disk is lost")]
    DiskLost,
    /// It could not be written.
    #[error("the sandbox could not be stored")]
    Write(#[source] StoreError),
    /// What is stored is damaged, or is another's.
    #[error("what is stored of it is damaged or missing ({part})")]
    Damaged {
        part: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It was stored as something else than its row says.
    #[error("what is stored is not what was expected: another {what}")]
    Mismatch { what: &'static str },
    /// Stored by a machine this host cannot make any more.
    #[error(
        "it was stored with another CPU model, VMM or kernel than this host has now (stored for {stored:.12}, here is \
         {here:.12}); it wakes where those are the same"
    )]
    Incompatible {
        /// The compatibility key it was stored with.
        stored: String,
        /// The one of this host.
        here: String,
    },
    /// The warm snapshot it is a difference to is not there.
    #[error("the base it was stored upon is missing or damaged")]
    NoBase(#[source] Option<BaseError>),
    /// The kernel and template it ran with are not there.
    #[error("the image it was made from is missing or damaged")]
    NoImage(#[source] ArtifactError),
    /// Storage could not be reached.
    #[error("what is stored of it cannot be fetched now")]
    Store(#[source] StoreError),
    /// Its disk could not be written or read.
    #[error("its disk could not be copied")]
    Disk(#[source] StorageError),
    /// A task of the runtime was lost.
    #[error("storing was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
}

impl CheckpointError {
    /// What a client reads about it.
    pub(super) fn answer(&self, message: String) -> ApiError {
        tracing::warn!(event = "checkpoint_unusable", error = %chain(self), "a checkpoint could not be written or used");
        match self {
            CheckpointError::NoRoom(_) => ApiError::InsufficientStorage(message),
            CheckpointError::Store(_) | CheckpointError::Late { .. } => {
                ApiError::Unavailable { message, retry_after_s: FULL_RETRY_S }
            }
            CheckpointError::Damaged { .. }
            | CheckpointError::Mismatch { .. }
            | CheckpointError::Incompatible { .. }
            | CheckpointError::NoBase(_)
            | CheckpointError::NoImage(_) => ApiError::Conflict(message),
            CheckpointError::Vmm(_)
            | CheckpointError::DiskLost
            | CheckpointError::Write(_)
            | CheckpointError::Disk(_)
            | CheckpointError::Interrupted(_) => ApiError::Internal,
        }
    }

    /// Of what could not be opened.
    pub(crate) fn of_store(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { .. } => Self::damaged(error),
            StoreError::Archive(ref source) if source.is_damage() => Self::damaged(error),
            StoreError::Fetch { ref source, .. } if is_damage(source) => Self::damaged(error),
            error => Self::Store(error),
        }
    }

    /// Of what could not be written.
    pub(crate) fn of_writing(error: StoreError) -> Self {
        if is_no_space(&error) { Self::NoRoom(Box::new(error)) } else { Self::Write(error) }
    }

    /// Of disk space that is not there for what is to be written.
    pub(crate) fn of_full_disk(error: LifecycleError) -> Self {
        Self::NoRoom(Box::new(error))
    }

    /// Of a launch that reads what is stored while it runs: damage found then is told as such.
    pub(crate) fn of_launch(error: LaunchError) -> LifecycleError {
        match find::<ArchiveError>(&error).is_some_and(ArchiveError::is_damage) {
            true => Self::damaged(error).into(),
            false if is_no_space(&error) => LifecycleError::HostFull { missing: "its disk is full".to_owned() },
            false => error.into(),
        }
    }

    /// Names the damaged file, and nothing else of the host.
    fn damaged(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        let file = find::<ArchiveError>(&error).and_then(ArchiveError::file);
        let part = file
            .and_then(|path| path.file_name())
            .map_or_else(|| "all of it".to_owned(), |name| name.to_string_lossy().into_owned());
        Self::Damaged { part, source: Box::new(error) }
    }
}

/// Whether what was fetched is not what was sealed; otherwise it could not be fetched just now.
fn is_damage(error: &StoreError) -> bool {
    match error {
        StoreError::Archive(error) => error.is_damage(),
        StoreError::NotFound { .. } | StoreError::RemoteLength { .. } => true,
        _ => false,
    }
}

/// The error of type `E` among the causes of `error`. What an iterator gave is inside an I/O error, which hides it.
fn find<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        let hidden = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = match hidden {
            Some(hidden) => Some(hidden as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    None
}

fn is_no_space(error: &(dyn std::error::Error + 'static)) -> bool {
    find::<std::io::Error>(error).is_some_and(|error| {
        matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
    })
}

//! Errors of the operations on sandboxes, and the answers that clients get for them.

mod cause;
mod checkpoint;
mod sealed;
mod wake;

pub use checkpoint::CheckpointError;
pub use sealed::SealedError;
pub use wake::WakeFailure;

use leapbox_api_types::error::{ApiError, FieldError};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_bases::BaseError;
use leapbox_db::DbError;
use leapbox_errors::{FileError, chain};
use leapbox_guest_client::GuestError;
use leapbox_ids::SandboxId;
use leapbox_network::{AuthorityError, NetworkError};
use leapbox_storage::StorageError;
use leapbox_templates::ArtifactError;
use leapbox_vmm::VmmError;
use std::path::PathBuf;

/// `Retry-After` of a host that is full or has just been started, in seconds. Room is made by deletes and timeouts,
/// which come seconds apart, and a shorter time would let every refused client add load to a host that is busy already.
const FULL_RETRY_S: u64 = 5;

/// An error of an operation on a sandbox or snapshot. The texts are for clients: paths, programs and queries of the
/// host are in the causes, which only the log shows.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// Unknown, another organisation's, or deleted: a client must not be able to tell which.
    #[error("sandbox {id} not found")]
    NotFound { id: SandboxId },
    /// Its machine has died or was lost, and it is still shown.
    #[error("sandbox {id} has failed: {reason}")]
    Failed { id: SandboxId, reason: String },
    /// Another operation on it has not ended yet.
    #[error("sandbox {id} is {state}; try again when it is not")]
    InTransition { id: SandboxId, state: SandboxState },
    #[error("there is no template {name}")]
    UnknownTemplate { name: String, known: Vec<String> },
    /// The operation needs a running sandbox.
    #[error("sandbox {id} is {state}, not running{hint}", hint = if *state == SandboxState::Stopped { "; start it first" } else { "" })]
    NotRunning { id: SandboxId, state: SandboxState },
    /// The operation needs a stopped sandbox.
    #[error("sandbox {id} is {state}, not stopped")]
    NotStopped { id: SandboxId, state: SandboxState },
    /// Its machine ended during a call into it, because it was paused or stopped; whether the call took effect is
    /// unknown.
    #[error("sandbox {id} was paused or stopped while this call used it")]
    Interrupted { id: SandboxId },
    /// Its owner has deleted it before it ran.
    #[error("sandbox {id} was deleted before it ran")]
    DeletedMeanwhile { id: SandboxId },
    /// This server has been started anew, and has not taken its machine over yet.
    #[error("sandbox {id} runs, and the server, which has been restarted, has not reached it yet; try again")]
    NotTakenOver { id: SandboxId },
    /// Neither its template nor the image that it was made from is on this host.
    #[error(
        "sandbox {id} cannot be used now: the template that it was made from is missing on its host; its operator has \
         to run `leapbox setup` and restart the server"
    )]
    TemplateMissing { id: SandboxId },
    #[error("too many requests wait for sandbox {id} to wake up")]
    TooManyWaiting { id: SandboxId },
    /// It is still paused, and its checkpoint is unchanged.
    #[error("sandbox {id} could not be woken: {reason}")]
    NotWoken {
        id: SandboxId,
        /// As its owner reads it in `state_reason`.
        reason: String,
    },
    /// Unknown, or another organisation's.
    #[error("snapshot {name} not found")]
    NoSnapshot {
        /// Its id or name, as the client gave it.
        name: String,
    },
    /// The organisation has a snapshot of this name, or one is being taken.
    #[error("there is already a snapshot named {name}; choose another name, or delete that one first")]
    NameTaken { name: String },
    /// The host lacks memory, disk or machines for another sandbox.
    #[error("this host cannot take another sandbox now: {missing}")]
    HostFull {
        /// The resource that is short, with numbers.
        missing: String,
    },
    /// Files that all machines of the template share have been removed or moved.
    #[error(
        "the template's files are missing on this host; its operator has to put them back, or to run `leapbox setup` \
         and restart the server"
    )]
    ImageMissing {
        /// The first file that is missing.
        file: PathBuf,
    },
    #[error("the sandbox could not be started")]
    Launch(#[source] LaunchError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A new sandbox's environment, policy or certificate authority could not be encrypted for the database.
    #[error("the sandbox's secrets could not be sealed")]
    Seal(#[source] SealedError),
    #[error(
        "the sandbox's environment variables cannot be read: they were stored with another server key, or changed since"
    )]
    Environment(#[source] SealedError),
    #[error("the sandbox's network policy cannot be read: it was stored with another server key, or changed since")]
    Policy(#[source] SealedError),
    /// The authority that its policy's transforms need could not be made, or read from the database.
    #[error("the sandbox's certificate authority cannot be used")]
    Authority(#[source] AuthorityError),
    #[error("the database failed")]
    Db(#[source] DbError),
    #[error("the server is shutting down")]
    ShuttingDown,
}

impl LifecycleError {
    /// What `otherwise` makes of the error, unless its cause is a full disk: that passes, and is told as such.
    fn unless_disk_full<E: std::error::Error + 'static>(error: E, otherwise: impl FnOnce(E) -> Self) -> Self {
        if cause::is_disk_full(&error) {
            tracing::warn!(event = "disk_full", error = %chain(&error), "the host's disk is full");
            return Self::HostFull { missing: "the host's disk is full".to_owned() };
        }
        otherwise(error)
    }
}

impl From<LaunchError> for LifecycleError {
    fn from(error: LaunchError) -> Self {
        Self::unless_disk_full(error, Self::Launch)
    }
}

impl From<DbError> for LifecycleError {
    fn from(error: DbError) -> Self {
        Self::unless_disk_full(error, Self::Db)
    }
}

/// The step at which a launch failed. Nothing of the machine is left.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("the base to start from could not be had")]
    Base(#[source] BaseError),
    #[error("no network slot could be had, or its policy not installed")]
    Network(#[source] NetworkError),
    #[error("the disk could not be made")]
    Disk(#[source] StorageError),
    #[error("its task was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
    #[error("its directory could not be marked as the sandbox's")]
    Owner(#[source] FileError),
    #[error("the VMM failed")]
    Vmm(#[source] VmmError),
    /// The agent did not answer, or reported a fault.
    #[error("the guest's agent failed while {stage}")]
    Agent {
        /// The operation that was asked of it, as in "mounting its disks".
        stage: &'static str,
        #[source]
        source: GuestError,
    },
    #[error("the operating system gives no random bytes")]
    Random(#[source] getrandom::Error),
    /// The agent did not confirm fresh randomness, clock and identity: the clone must not be used.
    #[error("the guest did not confirm {what}")]
    NotConfirmed { what: &'static str },
}

/// An error that keeps the service from starting.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the templates cannot be read")]
    Artifacts(#[from] ArtifactError),
    #[error("the bases cannot be opened")]
    Base(#[from] BaseError),
    #[error("the database failed")]
    Db(#[from] DbError),
    #[error("the VMM driver failed")]
    Vmm(#[from] VmmError),
    #[error("what the previous server left of machines could not be removed")]
    Leftovers(#[source] VmmError),
    /// Sandboxes that still run cannot be taken over with these settings. Nothing has been touched.
    #[error("{0}")]
    Takeover(String),
    /// Machines run whose sandboxes the database does not know. Nothing has been touched.
    #[error(
        "machines of {count} sandbox(es) run that the database does not know ({names}): it is older than they are, or \
         another one. Put the newest database back; or, to go on with this one, start once with \
         `leapbox serve --accept-older-database`, which sets these machines aside"
    )]
    UnknownMachines { count: usize, names: String },
    #[error("the network's settings could not be compared with what runs")]
    Network(#[from] NetworkError),
    #[error("the directories of machines and disks cannot be used")]
    Folder(#[from] leapbox_storage::PrivateError),
}

impl From<LifecycleError> for ApiError {
    fn from(error: LifecycleError) -> Self {
        let message = error.to_string();
        match error {
            LifecycleError::NotFound { .. } => ApiError::NotFound(message),
            LifecycleError::NoSnapshot { .. } => ApiError::NotFound(message),
            LifecycleError::Failed { .. }
            | LifecycleError::InTransition { .. }
            | LifecycleError::NotRunning { .. }
            | LifecycleError::NotStopped { .. }
            | LifecycleError::Interrupted { .. }
            | LifecycleError::DeletedMeanwhile { .. }
            | LifecycleError::NotWoken { .. }
            | LifecycleError::Environment(_)
            | LifecycleError::Policy(_)
            | LifecycleError::NameTaken { .. } => ApiError::Conflict(message),
            // A wake usually takes less than a second, and then the queue is empty again.
            LifecycleError::TooManyWaiting { .. } => ApiError::Unavailable { message, retry_after_s: 1 },
            LifecycleError::NotTakenOver { .. } | LifecycleError::TemplateMissing { .. } => {
                ApiError::Unavailable { message, retry_after_s: FULL_RETRY_S }
            }
            LifecycleError::ImageMissing { file } => {
                tracing::error!(event = "image_missing", file = %file.display(), "a template's file is missing");
                ApiError::Unavailable { message, retry_after_s: FULL_RETRY_S }
            }
            LifecycleError::Checkpoint(source) => source.answer(message),
            LifecycleError::UnknownTemplate { known, .. } => {
                // A field of the request, so it is answered like every other bad field.
                let text = format!("{message}; there is {}", known.join(", "));
                ApiError::Validation(vec![FieldError::new("template_name", text)])
            }
            LifecycleError::HostFull { .. } => ApiError::Unavailable { message, retry_after_s: FULL_RETRY_S },
            LifecycleError::ShuttingDown => ApiError::Unavailable { message, retry_after_s: 1 },
            // The host's own faults: the client reads only that it was one, and the log has the cause.
            LifecycleError::Launch(source) => {
                tracing::error!(error = %chain(&source), "a sandbox could not be started");
                ApiError::Internal
            }
            LifecycleError::Seal(source) => {
                tracing::error!(error = %chain(&source), "the secrets of a new sandbox could not be sealed");
                ApiError::Internal
            }
            LifecycleError::Authority(source) => {
                tracing::error!(error = %chain(&source), "a certificate authority cannot be used");
                ApiError::Internal
            }
            LifecycleError::Db(source) => {
                tracing::error!(error = %chain(&source), "the database failed");
                ApiError::Internal
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_cannot_be_sealed_is_the_hosts_fault_and_one_that_cannot_be_opened_is_told() {
        let source = || SealedError::Policy(Vec::new());
        assert!(matches!(ApiError::from(LifecycleError::Seal(source())), ApiError::Internal));
        assert!(matches!(ApiError::from(LifecycleError::Environment(source())), ApiError::Conflict(_)));
        assert!(matches!(ApiError::from(LifecycleError::Policy(source())), ApiError::Conflict(_)));
    }
}

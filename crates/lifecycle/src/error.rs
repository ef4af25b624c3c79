//! What can go wrong with a sandbox, and what of it a client reads.

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
use leapbox_errors::chain;
use leapbox_guest_client::GuestError;
use leapbox_ids::SandboxId;
use leapbox_network::{AuthorityError, NetworkError};
use leapbox_storage::StorageError;
use leapbox_templates::ArtifactError;
use leapbox_vmm::VmmError;

/// Seconds after which a full host is worth asking again.
const FULL_RETRY_S: u64 = 5;

/// Why a sandbox could not be made, found or changed.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// Unknown, another organisation's, or deleted: told apart by nobody.
    #[error("sandbox {id} not found")]
    NotFound { id: SandboxId },
    /// It failed, and its owner has not deleted it yet.
    #[error("sandbox {id} has failed: {reason}")]
    Failed { id: SandboxId, reason: String },
    /// Something else is being done to it.
    #[error("sandbox {id} is {state}; try again when it is not")]
    InTransition { id: SandboxId, state: SandboxState },
    /// There is no such template.
    #[error("there is no template {name}")]
    UnknownTemplate { name: String, known: Vec<String> },
    /// It must run for that, and does not.
    #[error("sandbox {id} is {state}, not running{hint}", hint = if *state == SandboxState::Stopped { "; start it first" } else { "" })]
    NotRunning { id: SandboxId, state: SandboxState },
    /// It must be stopped for that, and is not.
    #[error("sandbox {id} is {state}, not stopped")]
    NotStopped { id: SandboxId, state: SandboxState },
    /// Its machine went, because it was paused or stopped, while a call used it.
    #[error("sandbox {id} was paused or stopped while this call used it")]
    Interrupted { id: SandboxId },
    /// Too many requests wait for it to be usable.
    #[error("too many requests wait for sandbox {id} to wake up")]
    TooManyWaiting { id: SandboxId },
    /// It is paused and could not be woken; what is stored of it is as it was.
    #[error("sandbox {id} could not be woken: {reason}")]
    NotWoken {
        id: SandboxId,
        /// Why, in words for its owner.
        reason: String,
    },
    /// There is no such snapshot, or it is another organisation's.
    #[error("snapshot {name} not found")]
    NoSnapshot {
        /// Its id or name, as it was asked for.
        name: String,
    },
    /// The organisation has a snapshot of this name, or one is being taken.
    #[error("there is a snapshot with the name {name} already")]
    NameTaken { name: String },
    /// The host cannot take another sandbox now.
    #[error("this host cannot take another sandbox now: {missing}")]
    HostFull {
        /// What there is not enough of.
        missing: String,
    },
    /// The machine could not be started.
    #[error("the sandbox could not be started")]
    Launch(#[from] LaunchError),
    /// It could not be stored, or what is stored cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The stored environment variables cannot be read with this server's key.
    #[error("its environment variables cannot be read: they were stored with another key")]
    Environment(#[source] SealedError),
    /// The stored network policy cannot be read with this server's key.
    #[error("its network policy cannot be read: it was stored with another key")]
    Policy(#[source] SealedError),
    /// The certificate authority that its policy needs could not be made, or read again.
    #[error("its certificate authority cannot be used")]
    Authority(#[source] AuthorityError),
    /// The database failed.
    #[error("the database failed")]
    Db(#[from] DbError),
    /// The server is ending.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// The step of a launch that failed.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// No warm snapshot to start from.
    #[error("no warm snapshot")]
    Warm(#[source] BaseError),
    /// No network slot.
    #[error("no network slot")]
    Network(#[source] NetworkError),
    /// No disk.
    #[error("no disk")]
    Disk(#[source] StorageError),
    /// A task of the runtime was lost.
    #[error("the disk's copy was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
    /// The VMM failed.
    #[error("the VMM failed")]
    Vmm(#[source] VmmError),
    /// The agent did not answer, or not as it must.
    #[error("the guest's agent failed while {stage}")]
    Agent {
        /// What was asked of it.
        stage: &'static str,
        #[source]
        source: GuestError,
    },
    /// The host has no randomness to give to the guest.
    #[error("the operating system gives no random bytes")]
    Random(#[source] getrandom::Error),
    /// The agent did not confirm fresh randomness, clock and identity: the clone must not be used.
    #[error("the guest did not confirm {what}")]
    NotConfirmed { what: &'static str },
}

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The templates cannot be read.
    #[error("the templates cannot be read")]
    Artifacts(#[from] ArtifactError),
    /// The warm snapshots cannot be opened.
    #[error("the warm snapshots cannot be opened")]
    Warm(#[from] BaseError),
    /// The database failed.
    #[error("the database failed")]
    Db(#[from] DbError),
    /// The driver failed.
    #[error("the VMM driver failed")]
    Vmm(#[from] VmmError),
    /// What a former server left could not be looked at.
    #[error("removing what a former server left")]
    Leftovers(#[source] VmmError),
    /// Machines of another driver still run.
    #[error(
        "{count} sandbox(es) still run with {recorded}, and this server would use {own}: start it with \
         driver = \"{recorded}\" (`leapbox doctor` tells why it was not picked), or delete them first"
    )]
    OtherDriver { count: usize, recorded: String, own: &'static str },
    /// A folder of the server's cannot be used.
    #[error("preparing the folders of machines and disks")]
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
            | LifecycleError::NotWoken { .. }
            | LifecycleError::Environment(_)
            | LifecycleError::Policy(_)
            | LifecycleError::NameTaken { .. } => ApiError::Conflict(message),
            LifecycleError::TooManyWaiting { .. } => ApiError::Unavailable { message, retry_after_s: 1 },
            LifecycleError::Checkpoint(source) => source.answer(message),
            LifecycleError::UnknownTemplate { known, .. } => {
                let text = format!("{message}; there is {}", known.join(", "));
                ApiError::Validation(vec![FieldError::new("template_name", text)])
            }
            LifecycleError::HostFull { .. } => ApiError::Unavailable { message, retry_after_s: FULL_RETRY_S },
            LifecycleError::ShuttingDown => ApiError::Unavailable { message, retry_after_s: 1 },
            LifecycleError::Launch(source) => {
                tracing::error!(error = %chain(&source), "a sandbox could not be started");
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

//! The failure of a wake, which is published to all requests that waited for it.

use super::LifecycleError;
use leapbox_ids::SandboxId;

/// A failed wake. [`LifecycleError`] cannot be cloned, so this makes a new error for each of those who waited.
#[derive(Debug)]
pub struct WakeFailure {
    /// How many wakes from this pause have failed, this one included.
    pub count: u64,
    error: LifecycleError,
}

impl WakeFailure {
    pub(crate) fn new(count: u64, error: LifecycleError) -> Self {
        Self { count, error }
    }

    /// The reason, as the sandbox's owner reads it in `state_reason`.
    pub(crate) fn reason(&self) -> String {
        match &self.error {
            // Their texts name programs, paths and queries of the host, which are not its owner's business.
            LifecycleError::Launch(_) | LifecycleError::Db(_) => {
                "a fault of the host; its log has the cause".to_owned()
            }
            error => error.to_string(),
        }
    }

    /// The error for one of the requests that waited for the sandbox `id`.
    pub(crate) fn error(&self, id: &SandboxId) -> LifecycleError {
        match &self.error {
            // These are answered 503 with `Retry-After`, because a later try may succeed; the others are answered 409.
            LifecycleError::HostFull { missing } => LifecycleError::HostFull { missing: missing.clone() },
            LifecycleError::ShuttingDown => LifecycleError::ShuttingDown,
            LifecycleError::ImageMissing { file } => LifecycleError::ImageMissing { file: file.clone() },
            _ => LifecycleError::NotWoken { id: id.clone(), reason: self.reason() },
        }
    }
}

//! A wake that failed, told to all who waited for it.

use super::LifecycleError;
use leapbox_ids::SandboxId;

/// How waking failed, kept for all who wait.
#[derive(Debug)]
pub struct WakeFailure {
    /// How many wakes from this sleep have failed.
    pub count: u64,
    error: LifecycleError,
}

impl WakeFailure {
    pub(crate) fn new(count: u64, error: LifecycleError) -> Self {
        Self { count, error }
    }

    /// Why, in words for its owner.
    pub(crate) fn reason(&self) -> String {
        match &self.error {
            LifecycleError::Launch(_) | LifecycleError::Db(_) => {
                "a fault of the host; its log has the cause".to_owned()
            }
            error => error.to_string(),
        }
    }

    /// The error of one of those who waited for the sandbox `id`.
    pub(crate) fn error(&self, id: &SandboxId) -> LifecycleError {
        match &self.error {
            LifecycleError::HostFull { missing } => LifecycleError::HostFull { missing: missing.clone() },
            LifecycleError::ShuttingDown => LifecycleError::ShuttingDown,
            _ => LifecycleError::NotWoken { id: id.clone(), reason: self.reason() },
        }
    }
}

//! Errors of sealing secrets for the database, and of opening them.

use leapbox_egress_policy::Problem;
use leapbox_storage::KeyError;

/// An error of sealing a value, or of opening a sealed one.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// Also: the value was sealed for another organisation or sandbox, or was changed in the database.
    #[error("it cannot be sealed or opened with the server's key")]
    Key(#[from] KeyError),
    #[error("it is not the expected JSON")]
    Json(#[from] serde_json::Error),
    #[error("it is not a network policy: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Policy(Vec<Problem>),
}

impl From<Vec<Problem>> for SealedError {
    fn from(problems: Vec<Problem>) -> Self {
        SealedError::Policy(problems)
    }
}

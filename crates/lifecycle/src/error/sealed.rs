//! Why what the database keeps sealed cannot be used.

use leapbox_egress_policy::Problem;
use leapbox_storage::KeyError;

/// Why something could not be sealed, or what was sealed cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// The server's key is another one, or what is stored was changed.
    #[error("the server's key does not fit")]
    Key(#[from] KeyError),
    /// What was sealed is not the JSON that was expected.
    #[error("it is not the expected JSON")]
    Json(#[from] serde_json::Error),
    /// It is JSON and no policy.
    #[error("it is not a network policy: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Policy(Vec<Problem>),
}

impl From<Vec<Problem>> for SealedError {
    fn from(problems: Vec<Problem>) -> Self {
        SealedError::Policy(problems)
    }
}

//! Why a request has no caller, or a key could not be made.

use leapbox_api_types::ApiError;
use leapbox_db::DbError;

/// Why a request has no caller. The client only ever learns that its key is missing or invalid.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Neither header is there.
    #[error("no authorization header")]
    Missing,
    /// The header is there more than once.
    #[error("the {header} header is there more than once")]
    Repeated { header: &'static str },
    /// What the header carries is not shaped like a key.
    #[error("not shaped like a key")]
    Malformed,
    /// No such key, or it was revoked.
    #[error("unknown or revoked key")]
    Unknown,
    /// The database could not be asked for so long that what is in memory is not trusted any more.
    #[error("the keys cannot be checked")]
    Unchecked {
        #[from]
        source: DbError,
    },
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Missing | AuthError::Repeated { .. } | AuthError::Malformed | AuthError::Unknown => {
                ApiError::Unauthorized
            }
            AuthError::Unchecked { .. } => ApiError::Unavailable {
                message: "API keys cannot be checked right now; try again".to_owned(),
                retry_after_s: 1,
            },
        }
    }
}

/// Why a key could not be made or revoked.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No random bytes for the secret.
    #[error("the operating system gave no random bytes")]
    Random {
        #[source]
        source: getrandom::Error,
    },
    /// The key could not be stored.
    #[error("storing the key")]
    Insert {
        #[source]
        source: DbError,
    },
    /// The key could not be revoked.
    #[error("revoking the key")]
    Revoke {
        #[source]
        source: DbError,
    },
}

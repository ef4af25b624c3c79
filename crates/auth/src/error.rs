//! Errors of authenticating a request, and of making and revoking keys.

use leapbox_api_types::ApiError;
use leapbox_db::DbError;

/// The reason a request could not be authenticated. The client only reads that its key is missing or invalid.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The request has neither of the two headers.
    #[error("no authorization header")]
    Missing,
    #[error("the {header} header is there more than once")]
    Repeated { header: &'static str },
    /// The header's value does not have the form of a key. Found without the database.
    #[error("not shaped like a key")]
    Malformed,
    #[error("unknown or revoked key")]
    Unknown,
    /// The database could not be read for so long that the keys in memory are too old to be trusted.
    #[error("the keys cannot be checked")]
    Unchecked {
        #[from]
        source: DbError,
    },
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            // One answer for all: it must not help in guessing keys.
            AuthError::Missing | AuthError::Repeated { .. } | AuthError::Malformed | AuthError::Unknown => {
                ApiError::Unauthorized
            }
            // Not 401: a client that reads that its key is invalid would stop trying.
            AuthError::Unchecked { .. } => ApiError::Unavailable {
                message: "API keys cannot be checked right now; try again".to_owned(),
                retry_after_s: 1,
            },
        }
    }
}

/// An error of making or revoking a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the operating system gave no random bytes")]
    Random {
        #[source]
        source: getrandom::Error,
    },
    #[error("the key could not be stored")]
    Insert {
        #[source]
        source: DbError,
    },
    #[error("the key could not be revoked")]
    Revoke {
        #[source]
        source: DbError,
    },
}

//! The one table that turns an error into an HTTP answer.
//!
//! Every crate that can fail in front of a client converts its errors into [`ApiError`]; status codes and bodies are
//! decided here alone. What the operator reads (causes, paths, host commands) is logged where it happened and is never
//! part of these texts.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One bad field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// The field's name on the wire.
    pub field: String,
    /// What is wrong with it and what is expected.
    pub error: String,
}

impl FieldError {
    /// A bad field.
    pub fn new(field: impl Into<String>, error: impl Into<String>) -> Self {
        Self { field: field.into(), error: error.into() }
    }
}

/// The body of every error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong, for a person.
    pub message: String,
    /// The bad fields, all of them, when the request was not valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<Vec<FieldError>>,
}

/// An error as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiError {
    /// Fields of the request are wrong.
    Validation(Vec<FieldError>),
    /// The request is wrong as a whole.
    BadRequest(String),
    /// No key, or not a key of ours.
    Unauthorized,
    /// The sandbox's user may not do that.
    Forbidden(String),
    /// Unknown, or another organisation's.
    NotFound(String),
    /// The path exists with another method.
    MethodNotAllowed,
    /// The client took too long to send its request.
    RequestTimeout,
    /// The resource's state does not allow it now.
    Conflict(String),
    /// More bytes than are taken.
    PayloadTooLarge(String),
    /// The organisation asks too often.
    RateLimited {
        /// Seconds until it may ask again.
        retry_after_s: u64,
    },
    /// What the sandbox answered, or did not, cannot be passed on.
    BadGateway(String),
    /// The host can't take it now.
    Unavailable {
        /// What is missing.
        message: String,
        /// Seconds until it is worth trying again.
        retry_after_s: u64,
    },
    /// The sandbox did not answer in time.
    GatewayTimeout(String),
    /// The sandbox's own disk is full.
    InsufficientStorage(String),
    /// The contract has it; this version has not.
    NotImplemented(String),
    /// A fault of ours; the log has the cause.
    Internal,
}

impl ApiError {
    /// The one answer for a sandbox that is unknown, another organisation's, or whose id is not even an id: nobody
    /// learns from it which. At most 64 characters of the id are repeated.
    pub fn sandbox_not_found(id: &str) -> Self {
        not_found("sandbox", id)
    }

    /// The same for a snapshot.
    pub fn snapshot_not_found(id: &str) -> Self {
        not_found("snapshot", id)
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            ApiError::Validation(_) | ApiError::BadRequest(_) => StatusCode::BAD_REQUEST,
            ApiError::Unauthorized => StatusCode::UNAUTHORIZED,
            ApiError::Forbidden(_) => StatusCode::FORBIDDEN,
            ApiError::NotFound(_) => StatusCode::NOT_FOUND,
            ApiError::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            ApiError::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            ApiError::Conflict(_) => StatusCode::CONFLICT,
            ApiError::PayloadTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            ApiError::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            ApiError::BadGateway(_) => StatusCode::BAD_GATEWAY,
            ApiError::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            ApiError::GatewayTimeout(_) => StatusCode::GATEWAY_TIMEOUT,
            ApiError::InsufficientStorage(_) => StatusCode::INSUFFICIENT_STORAGE,
            ApiError::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            ApiError::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Seconds for the `Retry-After` header, where trying again helps.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            ApiError::RateLimited { retry_after_s } | ApiError::Unavailable { retry_after_s, .. } => {
                Some(*retry_after_s)
            }
            _ => None,
        }
    }

    /// The JSON body.
    pub fn body(&self) -> ErrorBody {
        let message = match self {
            ApiError::Validation(_) => "Invalid request".to_owned(),
            ApiError::Unauthorized => "invalid or missing API key".to_owned(),
            ApiError::MethodNotAllowed => "method not allowed".to_owned(),
            ApiError::RequestTimeout => "the request did not arrive in time".to_owned(),
            ApiError::RateLimited { retry_after_s } => {
                format!("rate limit exceeded; try again in {retry_after_s} s")
            }
            ApiError::Internal => "internal error; the server's log has the cause under this request id".to_owned(),
            ApiError::BadRequest(message)
            | ApiError::Forbidden(message)
            | ApiError::NotFound(message)
            | ApiError::Conflict(message)
            | ApiError::PayloadTooLarge(message)
            | ApiError::BadGateway(message)
            | ApiError::Unavailable { message, .. }
            | ApiError::GatewayTimeout(message)
            | ApiError::NotImplemented(message)
            | ApiError::InsufficientStorage(message) => message.clone(),
        };
        let errors = match self {
            ApiError::Validation(fields) => Some(fields.clone()),
            _ => None,
        };
        ErrorBody { message, errors }
    }
}

fn not_found(what: &str, id: &str) -> ApiError {
    let id: String = id.chars().take(64).collect();
    ApiError::NotFound(format!("{what} {id} not found"))
}

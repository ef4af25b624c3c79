//! The one table that turns an error into an HTTP answer.
//!
//! Every crate whose errors reach a client converts them into [`ApiError`]; status codes and bodies are decided here
//! alone. Causes, paths of the host and its commands are for the operator: they are logged where they happened, and are
//! never part of these texts.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One bad field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// The name of the field in the request.
    pub field: String,
    /// The reason why the field was refused, and the values that are accepted.
    pub error: String,
}

impl FieldError {
    pub fn new(field: impl Into<String>, error: impl Into<String>) -> Self {
        Self { field: field.into(), error: error.into() }
    }
}

/// The body of every error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The reason in a sentence, for a person to read.
    pub message: String,
    /// All bad fields of a request that was refused because of its fields; absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<Vec<FieldError>>,
}

/// An error as a client sees it. A `String` in it is the message that the client reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiError {
    /// 400 with a list: fields of the request are bad.
    Validation(Vec<FieldError>),
    /// 400: the request is bad as a whole.
    BadRequest(String),
    /// 401: the request has no key, or one that is not valid.
    Unauthorized,
    /// 403: the image's user does not have the permission, inside the sandbox.
    Forbidden(String),
    /// 404: it does not exist, or belongs to another organisation.
    NotFound(String),
    /// 405: the path exists with another method.
    MethodNotAllowed,
    /// 408: the client took too long to send its request.
    RequestTimeout,
    /// 409: the resource's state does not allow it now.
    Conflict(String),
    /// 413: a body has more bytes than are accepted.
    PayloadTooLarge(String),
    /// 429: the organisation is over its rate limit.
    RateLimited {
        /// Seconds until it may ask again.
        retry_after_s: u64,
    },
    /// 502: the sandbox could not be reached, or its answer could not be understood.
    BadGateway(String),
    /// 503: the server or the sandbox has no capacity for it now.
    Unavailable {
        /// The capacity that is missing.
        message: String,
        /// Seconds until it is worth trying again.
        retry_after_s: u64,
    },
    /// 504: the sandbox did not answer in time.
    GatewayTimeout(String),
    /// 507: the sandbox's disk is full, or the host has no disk space to store it.
    InsufficientStorage(String),
    /// 501: the contract has it, this version of Leapbox has not.
    NotImplemented(String),
    /// 500: a fault of the server. It has no message, so that no cause reaches a client by mistake.
    Internal,
}

impl ApiError {
    /// The one answer for a sandbox that is unknown or another organisation's, and for a text that is no id. Nobody
    /// learns from it which of them is the case.
    pub fn sandbox_not_found(id: &str) -> Self {
        // 404 also for another organisation's: a 403 would confirm that the id exists.
        not_found("sandbox", id)
    }

    /// The same for a snapshot; see [`ApiError::sandbox_not_found`].
    pub fn snapshot_not_found(id: &str) -> Self {
        not_found("snapshot", id)
    }

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

    /// Seconds for the `Retry-After` header, if the client should try again.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            ApiError::RateLimited { retry_after_s } | ApiError::Unavailable { retry_after_s, .. } => {
                Some(*retry_after_s)
            }
            _ => None,
        }
    }

    pub fn body(&self) -> ErrorBody {
        let message = match self {
            // The contract's words, by which SDKs know that `errors` follows.
            ApiError::Validation(_) => "Invalid request".to_owned(),
            ApiError::Unauthorized => "invalid or missing API key".to_owned(),
            ApiError::MethodNotAllowed => "method not allowed".to_owned(),
            ApiError::RequestTimeout => "the request did not arrive in time".to_owned(),
            ApiError::RateLimited { retry_after_s } => {
                format!("rate limit exceeded; try again in {retry_after_s} s")
            }
            // The cause may name paths and hosts, so the client gets only what leads the operator to it.
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
    // The text of a path may have kilobytes, and an answer or a log line with it should not.
    let id: String = id.chars().take(64).collect();
    ApiError::NotFound(format!("{what} {id} not found"))
}

//! Answers that many routes share, as the OpenAPI document describes them.

use leapbox_api_types::error::ErrorBody;
use utoipa::{IntoResponses, ToSchema};

/// The errors that any path may answer.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "describes answers; the error table makes them")]
pub(crate) enum Errors {
    /// The request is not valid; `errors` names every bad field.
    #[response(status = 400)]
    BadRequest(ErrorBody),
    /// The request has no API key, or one that is not valid.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// The image's user does not have the permission for it.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// There is no such sandbox or snapshot in this organisation, or no such path in the sandbox.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The sandbox's state does not allow it now, or the path or the snapshot's name exists already.
    #[response(status = 409)]
    Conflict(ErrorBody),
    /// The request or its answer would have more than 10 MiB.
    #[response(status = 413)]
    PayloadTooLarge(ErrorBody),
    /// The organisation has sent too many requests; `Retry-After` has the seconds to wait.
    #[response(status = 429)]
    RateLimited(ErrorBody),
    /// The sandbox could not be reached, or its answer could not be understood.
    #[response(status = 502)]
    BadGateway(ErrorBody),
    /// The host has no capacity for it now; `Retry-After` has the seconds to wait.
    #[response(status = 503)]
    Unavailable(ErrorBody),
    /// The sandbox did not answer in time.
    #[response(status = 504)]
    GatewayTimeout(ErrorBody),
    /// The sandbox's disk is full.
    #[response(status = 507)]
    InsufficientStorage(ErrorBody),
}

/// A body of any bytes.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "describes bodies; handlers take `Bytes`")]
pub(crate) struct RawBytes(Vec<u8>);

//! What routes answer with besides their own bodies, as the OpenAPI document describes it.

use leapbox_api_types::error::ErrorBody;
use utoipa::{IntoResponses, ToSchema};

/// What any of the paths may answer besides its own.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "describes answers; the error table makes them")]
pub(crate) enum Errors {
    /// The request is not valid; `errors` names every bad field.
    #[response(status = 400)]
    BadRequest(ErrorBody),
    /// No key, or not a key of ours.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// The image's user may not do that.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// No such sandbox or snapshot, or no such path in it.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The sandbox's state does not allow it now, or the path or the snapshot's name exists already.
    #[response(status = 409)]
    Conflict(ErrorBody),
    /// More than 10 MiB.
    #[response(status = 413)]
    PayloadTooLarge(ErrorBody),
    /// Too many requests; `Retry-After` has the seconds to wait.
    #[response(status = 429)]
    RateLimited(ErrorBody),
    /// What the sandbox answered cannot be passed on.
    #[response(status = 502)]
    BadGateway(ErrorBody),
    /// The host cannot take it now; `Retry-After` has the seconds to wait.
    #[response(status = 503)]
    Unavailable(ErrorBody),
    /// The sandbox did not answer in time.
    #[response(status = 504)]
    GatewayTimeout(ErrorBody),
    /// The sandbox's disk is full.
    #[response(status = 507)]
    InsufficientStorage(ErrorBody),
}

/// A body that is just bytes.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "describes bodies; handlers take `Bytes`")]
pub(crate) struct RawBytes(Vec<u8>);

//! The gateway's own answers: an [`ApiError`] as JSON, with a header that tells it from an application's answer.

use crate::body::GatewayBody;
use crate::stats::{Counters, count};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use leapbox_api_types::ApiError;

/// The header that marks an answer as the gateway's own. `headers.rs` removes it from what an application sends.
pub const ERROR_MARK: HeaderName = HeaderName::from_static("x-leapbox-error");

/// The answer for an error, which it also counts.
pub(crate) fn error(counters: &Counters, error: &ApiError) -> Response<GatewayBody> {
    let status = error.status();
    count(if status.is_server_error() { &counters.failed_5xx } else { &counters.refused_4xx });
    // The body's two plain fields always serialise; an empty body is still a valid answer.
    let body = serde_json::to_vec(&error.body()).unwrap_or_default();
    let mut response = Response::new(GatewayBody::Text(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ERROR_MARK, HeaderValue::from_static("gateway"));
    if status == StatusCode::UNAUTHORIZED {
        // RFC 9110 §11.6.1: a 401 names a way to authenticate.
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(seconds) = error.retry_after_s() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

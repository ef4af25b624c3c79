//! Request bodies, bounded in bytes and in time.
//!
//! `guard.rs` takes a permit for a body's bytes before a handler runs; the extractors here read it.

use crate::answer::Failure;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body::Body as _;
use http_body_util::BodyExt;
use leapbox_api_types::{ApiError, BODY_MAX};
use leapbox_errors::chain;
use serde_json::{Map, Value};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Time for a client to send a whole body. Past it, the answer is 408.
// Enough for 10 MiB at 1.4 Mbit/s. A client that trickles bytes holds its permits no longer than this.
const BODY_DEADLINE: Duration = Duration::from_secs(60);
/// Bytes of a body over [`BODY_MAX`] that are still read, and dropped, before the 413.
// Most clients read the answer only after they have sent everything, and report a broken connection otherwise. A body
// that is larger still is cut off all the same.
const DRAIN_MAX: usize = 64 << 20;

/// Bytes, and time, that are spent on the body of a request that is refused before its handler.
// Emptying a small body keeps the connection usable. More would let a client without a key make the server read.
const DISCARD_MAX: usize = 64 << 10;
const DISCARD_DEADLINE: Duration = Duration::from_secs(1);

/// KiB that the bodies of all requests being served may have together: 512 MiB. Past it, the answer is 503.
// One body is at most 10 MiB, but a thousand connections that each send one would take 10 GiB of the host's memory.
const MEMORY_KIB: usize = 512 << 10;
static MEMORY: Semaphore = Semaphore::const_new(MEMORY_KIB);

/// Reserves memory for a request's body until the request is answered; `None` if not enough is left.
pub(crate) fn reserve_memory(body: &Body) -> Option<SemaphorePermit<'static>> {
    let hint = body.size_hint();
    // A chunked body may turn out to have any length, so it counts as one of the largest.
    let bytes = hint.upper().unwrap_or(u64::MAX).min(BODY_MAX as u64);
    MEMORY.try_acquire_many(u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)).ok()
}

/// A body of any bytes, at most [`BODY_MAX`].
pub(crate) struct RawBody(pub Bytes);

/// A body that is a JSON object.
pub(crate) struct JsonObject(pub Map<String, Value>);

/// A body that is a JSON object, `null`, or empty. The last two have no fields; an empty body needs no content-type.
pub(crate) struct OptionalJsonObject(pub Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for RawBody {
    type Rejection = Failure;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Failure> {
        Ok(read(request.into_body()).await.map(RawBody)?)
    }
}

impl<S: Send + Sync> FromRequest<S> for JsonObject {
    type Rejection = Failure;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Failure> {
        check_content_type(request.headers())?;
        let bytes = read(request.into_body()).await?;
        Ok(parse_object(&bytes).map(JsonObject)?)
    }
}

impl<S: Send + Sync> FromRequest<S> for OptionalJsonObject {
    type Rejection = Failure;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        let bytes = read(body).await?;
        if bytes.is_empty() {
            return Ok(OptionalJsonObject(Map::new()));
        }
        check_content_type(&parts.headers)?;
        if bytes.trim_ascii() == b"null" {
            return Ok(OptionalJsonObject(Map::new()));
        }
        Ok(parse_object(&bytes).map(OptionalJsonObject)?)
    }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // Parameters such as `charset` do not matter: JSON is UTF-8 (RFC 8259 §8.1).
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    let problem = "the body must be a JSON object, sent with the header `content-type: application/json`";
    Err(ApiError::BadRequest(match essence.as_str() {
        "" => format!("{problem}; there is no content-type"),
        _ => format!("{problem}; the content-type is another"),
    }))
}

fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    // serde_json refuses more than 128 levels, so that no body can overflow the stack with nested arrays.
    let found = match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => return Ok(object),
        Ok(Value::Array(_)) => "an array",
        Ok(Value::String(_)) => "a string",
        Ok(Value::Number(_)) => "a number",
        Ok(Value::Bool(_)) => "a boolean",
        Ok(Value::Null) => "null",
        Err(_) if bytes.is_empty() => "empty",
        Err(error) => return Err(ApiError::BadRequest(format!("the body is not valid JSON: {error}"))),
    };
    Err(ApiError::BadRequest(format!("the body must be a JSON object; it is {found}")))
}

async fn read(body: Body) -> Result<Bytes, ApiError> {
    tokio::time::timeout(BODY_DEADLINE, collect(body)).await.unwrap_or(Err(ApiError::RequestTimeout))
}

/// A refused request's body was too large or too slow to be read to its end, so its connection must be closed.
pub(crate) struct NotEmptied;

/// Reads and drops the body of a refused request, if it is small and comes at once.
pub(crate) async fn discard(body: Body) -> Result<(), NotEmptied> {
    if body.is_end_stream() {
        return Ok(());
    }
    let limited = http_body_util::Limited::new(body, DISCARD_MAX).collect();
    // Both bounds, because the length alone would let a client hold a request open that costs it nothing.
    match tokio::time::timeout(DISCARD_DEADLINE, limited).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(NotEmptied),
    }
}

fn broken_off(error: axum::Error) -> ApiError {
    tracing::debug!(error = %chain(&error), "a request's body ended early");
    ApiError::BadRequest("the body ended before it was complete".to_owned())
}

async fn collect(mut body: Body) -> Result<Bytes, ApiError> {
    // `Content-Length`, or 0 if none was sent.
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut bytes = BytesMut::with_capacity(announced.min(BODY_MAX));
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(broken_off)?;
        let Ok(data) = frame.into_data() else { continue };
        received += data.len();
        if received <= BODY_MAX && announced <= BODY_MAX {
            bytes.extend_from_slice(&data);
        } else {
            // The rest is only read for the client's sake, so the memory is freed at once.
            bytes = BytesMut::new();
            if received > DRAIN_MAX || announced > DRAIN_MAX {
                break;
            }
        }
    }
    if received.max(announced) > BODY_MAX {
        return Err(ApiError::PayloadTooLarge(format!("the body is larger than {} MiB", BODY_MAX >> 20)));
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(error: ApiError) -> String {
        error.body().message
    }

    #[test]
    fn what_is_not_a_json_object_is_refused_with_what_it_is() {
        for (bytes, expected) in [
            ("", "the body must be a JSON object; it is empty"),
            ("[]", "the body must be a JSON object; it is an array"),
            ("null", "the body must be a JSON object; it is null"),
            ("7", "the body must be a JSON object; it is a number"),
            ("\"x\"", "the body must be a JSON object; it is a string"),
            ("true", "the body must be a JSON object; it is a boolean"),
            ("{\"a\":1", "the body is not valid JSON: EOF while parsing an object at line 1 column 6"),
            ("{} {}", "the body is not valid JSON: trailing characters at line 1 column 4"),
        ] {
            assert_eq!(parse_object(bytes.as_bytes()).map_err(message), Err(expected.to_owned()));
        }
        assert!(parse_object(b"{\"a\":\"\xff\"}").is_err());
        let nested = format!("{{\"a\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(parse_object(nested.as_bytes()).is_err());
    }

    #[test]
    fn json_must_be_announced_as_json() {
        for (given, accepted) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/merge-patch+json", true),
            ("", false),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
            ("text/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(given));
            assert_eq!(check_content_type(&headers).is_ok(), accepted, "{given}");
        }
        assert!(check_content_type(&HeaderMap::new()).is_err());
    }

    #[tokio::test]
    async fn ten_mebibytes_are_taken_and_one_byte_more_is_not() {
        assert_eq!(read(Body::from(vec![7; BODY_MAX])).await.map(|bytes| bytes.len()), Ok(BODY_MAX));
        let refused = read(Body::from(vec![7; BODY_MAX + 1])).await;
        assert_eq!(refused.map_err(message), Err("the body is larger than 10 MiB".to_owned()));
        assert_eq!(read(Body::empty()).await, Ok(Bytes::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_sending_is_not_waited_for_for_ever() {
        let (mut sender, body) = http_body_util::channel::Channel::<Bytes, std::io::Error>::new(1);
        sender.send_data(Bytes::from_static(b"{")).await.expect("sent");
        assert_eq!(read(Body::new(body)).await, Err(ApiError::RequestTimeout));
    }
}

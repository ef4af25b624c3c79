//! Passes WebSockets through. The handshake is a request like any other; the bytes that follow are passed on unread.
//!
//! No other protocol may be switched to: requests in `h2c`, for one, would bypass the checks and the rewriting of
//! headers.

use super::body::Answer;
use super::rules::lists;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, TE, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version, response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use leapbox_errors::chain;
use tokio::io::copy_bidirectional_with_sizes;

const WEBSOCKET: &str = "websocket";
const BUFFER: usize = 16 * 1024;

/// Both sides of a WebSocket, once HTTP is over.
pub(crate) struct Switched {
    pub(crate) guest: OnUpgrade,
    pub(crate) upstream: OnUpgrade,
}

/// Whether a request asks for a WebSocket. Any other `Upgrade` is removed, and the request is answered as if it had
/// none.
pub(crate) fn is_wanted(request: &Request<Incoming>) -> bool {
    request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && lists(request.headers(), &CONNECTION, "upgrade")
        && is_agreed(request.headers())
        && request.body().is_end_stream()
}

/// Whether `Upgrade` names a WebSocket and nothing else.
pub(crate) fn is_agreed(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()))
}

/// Asks the upstream for a WebSocket, or confirms one to the guest.
pub(crate) fn ask(headers: &mut HeaderMap) {
    // `Connection` is written anew, without the `TE` that it may have named.
    headers.remove(TE);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
}

/// Returns the answer to the guest once the upstream has agreed.
pub(crate) fn agree(mut head: response::Parts) -> Response<Answer> {
    super::rules::towards_guest(&mut head.headers);
    // An answer 101 has no body (RFC 9110 §8.6).
    head.headers.remove(CONTENT_LENGTH);
    ask(&mut head.headers);
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    head.version = Version::HTTP_11;
    Response::from_parts(head, Answer::from_text(String::new()))
}

/// Passes bytes both ways until both sides have ended.
pub(crate) async fn tunnel(switched: Switched) {
    let (guest, upstream) = match tokio::try_join!(switched.guest, switched.upstream) {
        Ok(sides) => sides,
        Err(error) => return tracing::debug!(error = %chain(&error), "a switch to a WebSocket was not completed"),
    };
    let (mut guest, mut upstream) = (TokioIo::new(guest), TokioIo::new(upstream));
    if let Err(error) = copy_bidirectional_with_sizes(&mut guest, &mut upstream, BUFFER, BUFFER).await {
        tracing::debug!(error = %chain(&error), "a WebSocket broke off");
    }
}

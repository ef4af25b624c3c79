//! WebSocket: HTTP/1.1 `Upgrade`, or HTTP/2 extended CONNECT (RFC 8441), towards an HTTP/1.1 application.
//!
//! ```text
//!   client ── GET + Upgrade ──────────┐                     ┌─ 101 ─► 101 (HTTP/1.1) or 200 (HTTP/2), then a tunnel
//!   client ── CONNECT :protocol=… ────┴─ GET + Upgrade ─► app
//!                                                           └─ else ► passed on like any answer
//! ```
//!
//! `forward.rs` calls it for a request that asks for a WebSocket. No other protocol is upgraded to: `h2c` in particular
//! would carry further requests to the application of which neither key nor headers have been checked.

use crate::backends::Backend;
use crate::body::GatewayBody;
use crate::client::Client;
use crate::exchange::Application;
use crate::headers::{self, lists};
use crate::pool::RequestPermit;
use crate::request_body::RequestBody;
use crate::revocable::RevocableStream;
use crate::tunnel::tunnel;
use crate::upstream::{AbortOnDrop, UpstreamBody, handshake};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, response};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use leapbox_api_types::ApiError;
use leapbox_errors::chain;
use std::sync::Arc;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

const WEBSOCKET: &str = "websocket";

/// The way in which a client asks for a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// `GET` with `Upgrade: websocket` (RFC 6455 §4.1).
    Http1,
    /// `CONNECT` with `:protocol` set to `websocket` (RFC 8441 §4).
    Http2,
}

impl Upgrade {
    /// Whether a request asks for a WebSocket, and how. Any other `Upgrade` is ignored, as RFC 9110 §7.8 allows.
    pub(crate) fn wanted(request: &Request<Incoming>) -> Option<Self> {
        let headers = request.headers();
        if request.method() == Method::CONNECT {
            let protocol = request.extensions().get::<Protocol>()?;
            return protocol.as_str().eq_ignore_ascii_case(WEBSOCKET).then_some(Upgrade::Http2);
        }
        let wanted = request.method() == Method::GET
            && request.version() == Version::HTTP_11
            && lists(headers, &CONNECTION, "upgrade")
            && is_websocket(headers);
        wanted.then_some(Upgrade::Http1)
    }
}

fn is_websocket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()))
}

/// Passes the handshake on. If the application agrees, a tunnel relays from then on; if not, its answer is passed on.
pub(crate) async fn upgrade<B: Backend>(
    app: &Application<'_, B>,
    permit: RequestPermit,
    stream: RevocableStream,
    client: &Arc<Client>,
    kind: Upgrade,
    mut request: Request<Incoming>,
) -> Result<Response<GatewayBody>, ApiError> {
    let client_side = hyper::upgrade::on(&mut request);
    let (mut sender, connection) =
        handshake(stream, app.limits.max_header_bytes).await.map_err(|error| app.explain_http(&error))?;
    // A task drives the connection, because the answer is waited for here and the upgraded stream in the tunnel.
    let driver = AbortOnDrop::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(error = %chain(&error), "a connection to an application ended with an error");
        }
    });
    let answer = timeout(app.limits.response_head, sender.send_request(handshake_request(kind, request)?)).await;
    let mut answer = answer.map_err(|_: Elapsed| app.answer_timed_out())?.map_err(|error| app.explain_http(&error))?;
    client.note_activity();
    // An application that switches to another protocol is refused below: an `h2c` connection, say, would carry requests
    // to it that nobody has checked.
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS && is_websocket(answer.headers()) {
        let app_side = hyper::upgrade::on(&mut answer);
        tunnel(client_side, app_side, driver, permit, client, app.limits.websocket_idle);
        return Ok(agreed(kind, answer.into_parts().0));
    }
    if answer.status().is_informational() {
        return Err(app.bad_answer("switched to a protocol that was not asked for"));
    }
    let (mut head, incoming) = answer.into_parts();
    headers::towards_client(&mut head.headers);
    head.version = Version::HTTP_11;
    let body = UpstreamBody::driven(incoming, driver, permit, Arc::clone(client));
    Ok(Response::from_parts(head, GatewayBody::Upstream(body)))
}

/// The handshake as an HTTP/1.1 application expects it, whichever way the client asked.
fn handshake_request(kind: Upgrade, request: Request<Incoming>) -> Result<Request<RequestBody>, ApiError> {
    let (head, _no_body) = request.into_parts();
    let mut request = Request::new(RequestBody::empty());
    *request.uri_mut() = head.uri;
    *request.headers_mut() = head.headers;
    // `headers.rs` has removed both, as fields of the client's connection.
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    if kind == Upgrade::Http2 {
        headers.insert(SEC_WEBSOCKET_KEY, websocket_key()?);
    }
    Ok(request)
}

/// A `Sec-WebSocket-Key` (RFC 6455 §4.1: 16 random bytes in base64), which HTTP/2 clients do not send.
fn websocket_key() -> Result<HeaderValue, ApiError> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut random = [0u8; 22];
    getrandom::fill(&mut random).map_err(|error| {
        tracing::error!(error = %chain(&error), "could not get random bytes for a WebSocket key");
        ApiError::Internal
    })?;
    let mut key: Vec<u8> = random.iter().map(|byte| ALPHABET[usize::from(byte & 63)]).collect();
    // The last of 22 characters carries 2 of the 128 bits. A strict decoder refuses a key whose other 4 bits are not
    // zero.
    key[21] = ALPHABET[usize::from(random[21] & 0b11_0000)];
    key.extend_from_slice(b"==");
    HeaderValue::from_bytes(&key).map_err(|error| {
        tracing::error!(error = %chain(&error), "a WebSocket key is not valid as a header's value");
        ApiError::Internal
    })
}

/// The answer that the client gets once the application has agreed.
fn agreed(kind: Upgrade, head: response::Parts) -> Response<GatewayBody> {
    let mut response = Response::new(GatewayBody::Empty);
    *response.headers_mut() = head.headers;
    let headers = response.headers_mut();
    headers::towards_client(headers);
    // RFC 9110 §8.6 forbids it in a 1xx answer and in a 2xx answer to CONNECT.
    headers.remove(CONTENT_LENGTH);
    match kind {
        Upgrade::Http1 => {
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        }
        Upgrade::Http2 => {
            // RFC 8441 §5: HTTP/2 has no use for it, and the client has sent no key that it could answer.
            headers.remove(SEC_WEBSOCKET_ACCEPT);
        }
    }
    response
}

//! WebSocket: HTTP/1.1 `Upgrade`, or HTTP/2 extended CONNECT (RFC 8441), towards an HTTP/1.1 application.
//!
//! ```text
//!   client ── GET + Upgrade ──────────┐                     ┌─ 101 ─► 101 (HTTP/1.1) or 200 (HTTP/2), then a tunnel
//!   client ── CONNECT :protocol=… ────┴─ GET + Upgrade ─► app
//!                                                           └─ else ► passed on like any answer
//! ```
//!
//! No other protocol is upgraded to: `h2c` in particular would let requests past everything done to their headers.

use crate::backends::Backend;
use crate::body::GatewayBody;
use crate::client::Client;
use crate::exchange::Application;
use crate::headers::{self, lists};
use crate::link::Link;
use crate::pool::Slot;
use crate::request_body::RequestBody;
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

/// How the client asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// `Upgrade: websocket`.
    Http1,
    /// `CONNECT` with `:protocol`.
    Http2,
}

impl Upgrade {
    /// Whether a request asks for a WebSocket, and how. Any other `Upgrade` is as if it were not there.
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

/// Passes the upgrade on, and joins both sides once the application agrees.
pub(crate) async fn upgrade<B: Backend>(
    app: &Application<'_, B>,
    slot: Slot,
    link: Link,
    client: &Arc<Client>,
    kind: Upgrade,
    mut request: Request<Incoming>,
) -> Result<Response<GatewayBody>, ApiError> {
    let client_side = hyper::upgrade::on(&mut request);
    let (mut sender, connection) =
        handshake(link, app.limits.max_header_bytes).await.map_err(|error| app.explain_http(&error))?;
    let driver = AbortOnDrop::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(error = %chain(&error), "a connection to an application ended badly");
        }
    });
    let answer = timeout(app.limits.response_head, sender.send_request(handshake_request(kind, request)?)).await;
    let mut answer = answer.map_err(|_: Elapsed| app.late())?.map_err(|error| app.explain_http(&error))?;
    client.moved();
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS && is_websocket(answer.headers()) {
        let app_side = hyper::upgrade::on(&mut answer);
        tunnel(client_side, app_side, driver, slot, client, app.limits.websocket_idle);
        return Ok(agreed(kind, answer.into_parts().0));
    }
    if answer.status().is_informational() {
        return Err(app.bad("switched to a protocol nobody asked for"));
    }
    let (mut head, incoming) = answer.into_parts();
    headers::towards_client(&mut head.headers);
    head.version = Version::HTTP_11;
    let body = UpstreamBody::driven(incoming, driver, slot, Arc::clone(client));
    Ok(Response::from_parts(head, GatewayBody::Upstream(body)))
}

/// The request as the application gets it, whichever way the client asked.
fn handshake_request(kind: Upgrade, request: Request<Incoming>) -> Result<Request<RequestBody>, ApiError> {
    let (head, _no_body) = request.into_parts();
    let mut request = Request::new(RequestBody::empty());
    *request.uri_mut() = head.uri;
    *request.headers_mut() = head.headers;
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
        tracing::error!(error = %chain(&error), "the operating system gives no random bytes");
        ApiError::Internal
    })?;
    let mut key: Vec<u8> = random.iter().map(|byte| ALPHABET[usize::from(byte & 63)]).collect();
    // 128 bits end in a character of which only the upper two bits count.
    key[21] = ALPHABET[usize::from(random[21] & 0b11_0000)];
    key.extend_from_slice(b"==");
    HeaderValue::from_bytes(&key).map_err(|error| {
        tracing::error!(error = %chain(&error), "a WebSocket key cannot be a header's value");
        ApiError::Internal
    })
}

/// The client's answer once the application has agreed.
fn agreed(kind: Upgrade, head: response::Parts) -> Response<GatewayBody> {
    let mut response = Response::new(GatewayBody::Empty);
    *response.headers_mut() = head.headers;
    let headers = response.headers_mut();
    headers::towards_client(headers);
    headers.remove(CONTENT_LENGTH);
    match kind {
        Upgrade::Http1 => {
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        }
        Upgrade::Http2 => {
            headers.remove(SEC_WEBSOCKET_ACCEPT);
        }
    }
    response
}

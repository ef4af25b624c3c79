//! Rewrites header fields on their way through, in both directions.
//!
//! Towards the application: fields of the connection are removed (RFC 9110 §7.6.1), those named in `Connection`
//! included. What the client claims about itself (`X-Forwarded-*`, `Forwarded`, `X-Real-IP`) is **overwritten, not
//! appended to**, because this is the outermost proxy and the client is not trusted. HTTP/2's split cookies are joined
//! (RFC 9113 §8.2.3). No `Via` is added: applications switch compression off on seeing one.
//!
//! Towards the client: the same fields of the connection are removed, and so is the gateway's error mark. A cookie
//! loses its `Domain`.
//!
//! `forward.rs` calls it for requests, `exchange.rs` and `upgrade.rs` for answers.

use crate::answer::ERROR_MARK;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, SET_COOKIE, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Version};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Turns a client's headers into those that the application gets. The platform's key must have been removed before.
///
/// `host` is the authority the client named, `peer` its address.
pub(crate) fn towards_application(headers: &mut HeaderMap, version: Version, host: HeaderValue, peer: &HeaderValue) {
    // `TE` is a field of the connection, but a server may only send trailers to whom announces it, and we pass them on.
    let takes_trailers = lists(headers, &TE, "trailers");
    // Before anything of ours is inserted: a client that names `x-forwarded-for` in `Connection` would have it removed.
    remove_connection_fields(headers);
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    // `Expect` is settled between the client and this gateway: hyper sends 100 when the body is first asked for, and
    // that is when the application takes it.
    for name in [EXPECT, FORWARDED, X_FORWARDED_PORT, X_REAL_IP] {
        headers.remove(name);
    }
    if version == Version::HTTP_2 {
        join_cookies(headers);
    }
    headers.insert(X_FORWARDED_FOR, peer.clone());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
    headers.insert(X_FORWARDED_HOST, host.clone());
    headers.insert(HOST, host);
}

/// Turns an application's headers into those that the client gets.
pub(crate) fn towards_client(headers: &mut HeaderMap) {
    // With a transfer coding the length is meaningless (RFC 9112 §6.3) and must not reach anyone who believes it.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    remove_connection_fields(headers);
    // Clients and tests take this mark as proof that the answer is the gateway's own.
    headers.remove(ERROR_MARK);
    if headers.contains_key(SET_COOKIE) {
        narrow_cookies(headers);
    }
}

/// Whether a header lists a token in any of its lines, whatever the token's case.
pub(crate) fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// Removes the fields that belong to one connection (RFC 9110 §7.6.1).
fn remove_connection_fields(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|b| *b == b','))
            .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
        HTTP2_SETTINGS,
    ] {
        headers.remove(name);
    }
}

/// Joins the several `Cookie` lines that HTTP/2 allows into the one that HTTP/1.1 knows.
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    if lines.next().is_none() || lines.next().is_none() {
        return;
    }
    let lines: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// Removes `Domain` from every cookie, so that it belongs to the answering host alone. With `Domain`, one sandbox could
/// set cookies for all others, and for the control plane, under the common domain.
fn narrow_cookies(headers: &mut HeaderMap) {
    if !headers.get_all(SET_COOKIE).iter().any(|cookie| without_domain(cookie).is_some()) {
        return;
    }
    let cookies: Vec<HeaderValue> = headers
        .get_all(SET_COOKIE)
        .iter()
        .map(|cookie| without_domain(cookie).unwrap_or_else(|| cookie.clone()))
        .collect();
    headers.remove(SET_COOKIE);
    for cookie in cookies {
        headers.append(SET_COOKIE, cookie);
    }
}

/// The cookie without its `Domain` attributes, or `None` if it has none. Also for attributes that are not UTF-8.
fn without_domain(cookie: &HeaderValue) -> Option<HeaderValue> {
    let is_domain = |part: &[u8]| {
        let name = part.split(|b| *b == b'=').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"domain")
    };
    let mut parts = cookie.as_bytes().split(|b| *b == b';');
    let pair = parts.next()?;
    let attributes: Vec<&[u8]> = parts.collect();
    if !attributes.iter().any(|part| is_domain(part)) {
        return None;
    }
    let kept: Vec<&[u8]> =
        std::iter::once(pair).chain(attributes.into_iter().filter(|part| !is_domain(part))).collect();
    HeaderValue::from_bytes(&kept.join(&b';')).ok()
}

#[cfg(test)]
mod tests;

//! Rewrites header fields: what a transform does to them, and what every proxy does.
//!
//! Towards the upstream, the fields of the connection are removed first (RFC 9110 §7.6.1), those named in `Connection`
//! included; then what the transform strips or injects, however the guest has spelt it; then the injected fields are
//! added. In this order no field of the guest's can drop, replace or add to an injected one. Trailers may carry none of
//! them either.
//!
//! Towards the guest, only the fields of the connection are removed.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Version};
use leapbox_egress_policy::Transform;

/// Fields that belong to one connection, whether or not `Connection` names them.
const CONNECTION_FIELDS: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// A transform's headers in the types of `http`. It has no `Debug`, so that no log can show a value.
pub(crate) struct Rules {
    inject: Vec<(HeaderName, HeaderValue)>,
    /// Names of the guest's fields that are removed, including those of `inject`.
    remove: Vec<HeaderName>,
}

impl Rules {
    /// Returns `None` if a name or value cannot be sent. The connection must then be refused, because the policy cannot
    /// be kept.
    pub(crate) fn new(transform: &Transform) -> Option<Self> {
        let mut inject = Vec::with_capacity(transform.inject.len());
        let mut remove = Vec::with_capacity(transform.inject.len() + transform.strip.len());
        for (name, secret) in &transform.inject {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            let mut value = HeaderValue::from_bytes(secret.expose().as_bytes()).ok()?;
            // Not indexed by HPACK, where the size of later requests could tell a guess from the value; not shown by
            // `Debug`.
            value.set_sensitive(true);
            remove.push(name.clone());
            inject.push((name, value));
        }
        for name in &transform.strip {
            remove.push(HeaderName::from_bytes(name.as_bytes()).ok()?);
        }
        Some(Self { inject, remove })
    }

    /// Turns the guest's headers into the upstream's. `host` is the authority that the policy allows; in HTTP/2 it
    /// stands in `:authority` instead.
    pub(crate) fn towards_upstream(&self, headers: &mut HeaderMap, version: Version, host: &HeaderValue) {
        let takes_trailers = lists(headers, &TE, "trailers");
        remove_connection_fields(headers);
        // hyper answers the guest's `Expect` itself, and the body is streamed on without one.
        headers.remove(EXPECT);
        headers.remove(TE);
        self.clean(headers);
        if version == Version::HTTP_2 {
            headers.remove(HOST);
        } else {
            headers.insert(HOST, host.clone());
        }
        if takes_trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
            if version != Version::HTTP_2 {
                headers.insert(CONNECTION, HeaderValue::from_static("TE"));
            }
        }
        for (name, value) in &self.inject {
            headers.insert(name.clone(), value.clone());
        }
    }

    /// Removes from trailers what headers may not carry either, and what RFC 9110 §6.5.1 forbids there.
    pub(crate) fn trailers(&self, trailers: &mut HeaderMap) {
        remove_connection_fields(trailers);
        for name in [HOST, CONTENT_LENGTH, TE] {
            trailers.remove(name);
        }
        self.clean(trailers);
    }

    fn clean(&self, headers: &mut HeaderMap) {
        let is_removed = |name: &&HeaderName| {
            name.as_str().starts_with("proxy-") || self.remove.iter().any(|rule| same_field(rule, name))
        };
        let removed: Vec<HeaderName> = headers.keys().filter(is_removed).cloned().collect();
        for name in removed {
            headers.remove(name);
        }
    }
}

/// Turns the upstream's headers into the guest's.
pub(crate) fn towards_guest(headers: &mut HeaderMap) {
    // Beside a transfer coding the length is meaningless (RFC 9112 §6.3), and the guest must not believe it.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    remove_connection_fields(headers);
}

/// Whether a header lists a token, over all its lines.
pub(crate) fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether applications take two header names for the same one.
fn same_field(one: &HeaderName, other: &HeaderName) -> bool {
    // CGI and WSGI make `_` of `-`, and some servers of other characters too, so that `x_token` would stand for
    // `x-token`.
    let normal = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    one.as_str().bytes().map(normal).eq(other.as_str().bytes().map(normal))
}

/// Removes the fields that belong to one connection.
fn remove_connection_fields(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .collect();
    for name in named.iter().chain(&CONNECTION_FIELDS) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests;

//! What a transform does to header fields, and what every proxy does to them.
//!
//! Towards the upstream: fields of the connection go first (RFC 9110 §7.6.1), those named in `Connection` included;
//! then what the transform strips or injects, however the guest spelt it; then the injected ones come in. In this order
//! no field of the guest's can drop, replace or add to an injected one. Trailers may bring none of them either.
//!
//! Towards the guest: the fields of the connection go, the rest is the upstream's.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Version};
use leapbox_egress_policy::Transform;

/// Fields that belong to one connection, whether `Connection` names them or not.
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

/// A transform's headers, ready for use. Injected values are marked sensitive: `Debug` does not show them, and HPACK does
/// not index them. Has no `Debug` all the same.
pub(crate) struct Rules {
    inject: Vec<(HeaderName, HeaderValue)>,
    /// Names of the guest's fields that go; those of `inject` among them.
    remove: Vec<HeaderName>,
}

impl Rules {
    /// `None` if a name or value is none: then nothing may be sent, for the policy can't be kept.
    pub(crate) fn new(transform: &Transform) -> Option<Self> {
        let mut inject = Vec::with_capacity(transform.inject.len());
        let mut remove = Vec::with_capacity(transform.inject.len() + transform.strip.len());
        for (name, secret) in &transform.inject {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            let mut value = HeaderValue::from_bytes(secret.expose().as_bytes()).ok()?;
            value.set_sensitive(true);
            remove.push(name.clone());
            inject.push((name, value));
        }
        for name in &transform.strip {
            remove.push(HeaderName::from_bytes(name.as_bytes()).ok()?);
        }
        Some(Self { inject, remove })
    }

    /// Turns the guest's headers into those the upstream gets. `host` is the authority the policy allows; HTTP/2 says it
    /// in `:authority` instead.
    pub(crate) fn towards_upstream(&self, headers: &mut HeaderMap, version: Version, host: &HeaderValue) {
        let takes_trailers = lists(headers, &TE, "trailers");
        remove_connection_fields(headers);
        // What to do about a body that waits is settled between the guest and us, and between us and the upstream.
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

    /// Takes out of trailers what the headers may not have either, and what RFC 9110 §6.5.1 does not want there.
    pub(crate) fn trailers(&self, trailers: &mut HeaderMap) {
        remove_connection_fields(trailers);
        for name in [HOST, CONTENT_LENGTH, TE] {
            trailers.remove(name);
        }
        self.clean(trailers);
    }

    fn clean(&self, headers: &mut HeaderMap) {
        let goes = |name: &&HeaderName| {
            name.as_str().starts_with("proxy-") || self.remove.iter().any(|rule| same_field(rule, name))
        };
        let gone: Vec<HeaderName> = headers.keys().filter(goes).cloned().collect();
        for name in gone {
            headers.remove(name);
        }
    }
}

/// Turns the upstream's headers into those the guest gets.
pub(crate) fn towards_guest(headers: &mut HeaderMap) {
    // With a transfer coding the length is meaningless (RFC 9112 §6.3) and must not reach anyone who believes it.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    remove_connection_fields(headers);
}

/// Whether a header, over all its lines, lists a token.
pub(crate) fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether two names are one to an application: CGI and WSGI make `_` of `-`, so that `x_token` would stand for
/// `x-token`.
fn same_field(one: &HeaderName, other: &HeaderName) -> bool {
    let spelt = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    one.as_str().bytes().map(spelt).eq(other.as_str().bytes().map(spelt))
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

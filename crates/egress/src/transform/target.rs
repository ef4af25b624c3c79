//! Checks that every request is for the name of its TLS connection (against SNI fronting).
//!
//! A server chooses the virtual host by `Host` or `:authority` and not by the SNI. An injected secret, meant for one
//! name, must not reach another one that is served at the same address.

use super::refusal::Refusal;
use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, InvalidUriParts, Scheme, Uri};
use http::{HeaderValue, Method, StatusCode, Version};
use leapbox_egress_policy::{Denial, DomainName};
use std::net::SocketAddrV4;

/// The name and port that one guest connection is for.
pub(crate) struct Target {
    pub(crate) name: DomainName,
    /// The address and port that the guest has dialled.
    pub(crate) destination: SocketAddrV4,
    /// Name and port as HTTP writes them: the port only if it is not 443.
    authority: Authority,
    host: HeaderValue,
}

impl Target {
    /// Returns `None` if the name cannot be an authority; every [`DomainName`] can.
    pub(crate) fn new(name: DomainName, destination: SocketAddrV4) -> Option<Self> {
        let port = destination.port();
        let text = if port == 443 { name.to_string() } else { format!("{name}:{port}") };
        let host = HeaderValue::from_str(&text).ok()?;
        Some(Self { name, destination, authority: Authority::try_from(text).ok()?, host })
    }

    /// The `Host` for the upstream, made from the checked name and not from what the guest has written.
    pub(crate) fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// Refuses requests for another authority, and those that name more than one.
    pub(crate) fn check(&self, head: &Parts) -> Result<(), Refusal> {
        if head.method == Method::CONNECT {
            return Err(malformed("a CONNECT request inside of TLS"));
        }
        if head.method == Method::TRACE || head.method.as_str() == "TRACK" {
            // The answer to TRACE is the request as it arrived (RFC 9110 §9.3.8), injected values included.
            let denial = Denial::Malformed { what: "a TRACE request to a domain with a transform" };
            return Err(Refusal { status: StatusCode::METHOD_NOT_ALLOWED, denial, closes: false });
        }
        let mut hosts = head.headers.get_all(HOST).iter();
        let host = hosts.next();
        // A server may take either.
        if hosts.next().is_some() {
            return Err(malformed("two Host headers"));
        }
        let stated = head.uri.authority().map(|authority| authority.as_str().as_bytes());
        if head.uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTPS) {
            return Err(malformed("a request for another scheme than https"));
        }
        // In HTTP/2 `:authority` counts, else `Host` (RFC 9113 §8.3.1). In HTTP/1.1 `Host` must be there, and a target
        // in absolute form must agree with it.
        if head.version == Version::HTTP_2 {
            self.require(stated.or(host.map(HeaderValue::as_bytes)))?;
        } else if stated.is_some_and(|stated| !self.matches(stated)) {
            return Err(malformed("a request line with another authority than Host"));
        } else if stated.is_some() && head.uri.scheme().is_none() {
            return Err(malformed("a request line without a path"));
        } else if host.is_none() {
            return Err(malformed("no Host header"));
        }
        host.map_or(Ok(()), |host| self.require(Some(host.as_bytes())))
    }

    /// Turns the request's URI into the upstream's: the guest's path and query, and in HTTP/2 the checked authority.
    pub(crate) fn uri(&self, uri: &Uri, version: Version) -> Result<Uri, Refusal> {
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = uri.path_and_query().cloned();
        if version == Version::HTTP_2 {
            parts.scheme = Some(Scheme::HTTPS);
            parts.authority = Some(self.authority.clone());
        }
        Uri::from_parts(parts).map_err(|_: InvalidUriParts| malformed("a request line without a path"))
    }

    fn require(&self, authority: Option<&[u8]>) -> Result<(), Refusal> {
        match authority {
            None => Err(malformed("no :authority")),
            Some(authority) if self.matches(authority) => Ok(()),
            Some(_) => {
                let denial = Denial::Authority { name: self.name.clone() };
                Err(Refusal { status: StatusCode::MISDIRECTED_REQUEST, denial, closes: false })
            }
        }
    }

    /// Whether an authority is the connection's name, with any port and with or without a trailing dot.
    fn matches(&self, authority: &[u8]) -> bool {
        let host = match authority.iter().rposition(|byte| *byte == b':') {
            None => authority,
            Some(colon) => {
                let (host, port) = (&authority[..colon], &authority[colon + 1..]);
                if !(1..=5).contains(&port.len()) || !port.iter().all(u8::is_ascii_digit) {
                    return false;
                }
                host
            }
        };
        host.strip_suffix(b".").unwrap_or(host).eq_ignore_ascii_case(self.name.as_str().as_bytes())
    }
}

fn malformed(what: &'static str) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, denial: Denial::Malformed { what }, closes: false }
}

#[cfg(test)]
mod tests;

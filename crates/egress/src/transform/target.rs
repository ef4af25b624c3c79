//! Whom a request is for: it must be the name that the TLS connection is for, in every request (SNI fronting).
//!
//! The upstream's own idea of a virtual host comes from `Host` or `:authority`. An injected secret, meant for one name,
//! must not be sent to another one that is served at the same address.

use super::refusal::Refusal;
use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, InvalidUriParts, Scheme, Uri};
use http::{HeaderValue, Method, StatusCode, Version};
use leapbox_egress_policy::{Denial, DomainName};
use std::net::SocketAddrV4;

/// What one guest connection is for.
pub(crate) struct Target {
    pub(crate) name: DomainName,
    /// What the guest dialled.
    pub(crate) destination: SocketAddrV4,
    /// As HTTP writes both: the port only if it is not 443.
    authority: Authority,
    host: HeaderValue,
}

impl Target {
    /// `None` if a name can't be an authority, which a [`DomainName`] always can.
    pub(crate) fn new(name: DomainName, destination: SocketAddrV4) -> Option<Self> {
        let port = destination.port();
        let text = if port == 443 { name.to_string() } else { format!("{name}:{port}") };
        let host = HeaderValue::from_str(&text).ok()?;
        Some(Self { name, destination, authority: Authority::try_from(text).ok()?, host })
    }

    /// What the upstream gets as `Host`: what was checked, and not what the guest wrote.
    pub(crate) fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// Refuses a request for anybody else, and those that name more than one.
    pub(crate) fn check(&self, head: &Parts) -> Result<(), Refusal> {
        if head.method == Method::CONNECT {
            return Err(malformed("a CONNECT request inside of TLS"));
        }
        if head.method == Method::TRACE || head.method.as_str() == "TRACK" {
            // Its answer is the request as it arrived, and would show the guest what was injected.
            let denial = Denial::Malformed { what: "a TRACE request to a domain with a transform" };
            return Err(Refusal { status: StatusCode::METHOD_NOT_ALLOWED, denial, closes: false });
        }
        let mut hosts = head.headers.get_all(HOST).iter();
        let host = hosts.next();
        if hosts.next().is_some() {
            return Err(malformed("two Host headers"));
        }
        let stated = head.uri.authority().map(|authority| authority.as_str().as_bytes());
        if head.uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTPS) {
            return Err(malformed("a request for another scheme than https"));
        }
        if head.version == Version::HTTP_2 {
            self.must_be(stated.or(host.map(HeaderValue::as_bytes)))?;
        } else if stated.is_some_and(|stated| !self.is(stated)) {
            return Err(malformed("a request line with another authority than Host"));
        } else if stated.is_some() && head.uri.scheme().is_none() {
            return Err(malformed("a request line without a path"));
        } else if host.is_none() {
            return Err(malformed("no Host header"));
        }
        host.map_or(Ok(()), |host| self.must_be(Some(host.as_bytes())))
    }

    /// The request's URI as the upstream gets it.
    pub(crate) fn uri(&self, uri: &Uri, version: Version) -> Result<Uri, Refusal> {
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = uri.path_and_query().cloned();
        if version == Version::HTTP_2 {
            parts.scheme = Some(Scheme::HTTPS);
            parts.authority = Some(self.authority.clone());
        }
        Uri::from_parts(parts).map_err(|_: InvalidUriParts| malformed("a request line without a path"))
    }

    fn must_be(&self, authority: Option<&[u8]>) -> Result<(), Refusal> {
        match authority {
            None => Err(malformed("no :authority")),
            Some(authority) if self.is(authority) => Ok(()),
            Some(_) => {
                let denial = Denial::Authority { name: self.name.clone() };
                Err(Refusal { status: StatusCode::MISDIRECTED_REQUEST, denial, closes: false })
            }
        }
    }

    /// Whether an authority is the name, port and one trailing dot aside.
    fn is(&self, authority: &[u8]) -> bool {
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

//! Which sandbox and port a request's host name means.
//!
//! Called for every request before anything else; pure. The rules:
//!
//! - RFC 9112 §3.2: exactly one `Host`, also beside an absolute-form target, and both must agree (a difference is how
//!   requests are smuggled past whoever reads only one of them). HTTP/2 may leave `Host` out for `:authority`.
//! - Case, one trailing dot and the port in the host do not matter (the port may be anything: ports get forwarded).
//! - `<id>.<domain>` and `<id>-<port>.<domain>` are sandboxes, `<domain>` and `api.<domain>` the control plane.

use http::header::{HOST, ToStrError};
use http::{HeaderMap, Uri, Version};
use leapbox_api_types::ApiError;
use leapbox_guest_protocol::net::AGENT_PORT;
use leapbox_ids::{InvalidId, SandboxId};
use std::num::ParseIntError;

/// What a host name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// The API itself.
    ControlPlane,
    /// An application; without a port, the one the image names.
    Sandbox { id: SandboxId, port: Option<u16> },
}

/// Why a host name means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    #[error("the request has no Host")]
    Missing,
    #[error("the request has more than one Host")]
    Duplicate,
    #[error("the request's Host is not a host name")]
    Malformed,
    #[error("the request's Host and its target name different hosts")]
    Mismatch,
    #[error("nothing is served under this host name")]
    Unknown,
    #[error("`{text}` is not a port applications can be reached at: use 1 to 65535, without leading zeros")]
    BadPort { text: String },
    #[error("port {AGENT_PORT} is the sandbox's own and cannot be reached")]
    AgentPort,
}

impl From<HostError> for ApiError {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Unknown => ApiError::NotFound(error.to_string()),
            HostError::Missing
            | HostError::Duplicate
            | HostError::Malformed
            | HostError::Mismatch
            | HostError::BadPort { .. }
            | HostError::AgentPort => ApiError::BadRequest(error.to_string()),
        }
    }
}

/// What a request is addressed to.
pub(crate) fn target(version: Version, uri: &Uri, headers: &HeaderMap, domain: &str) -> Result<Target, HostError> {
    let name = host_name(authority(version, uri, headers)?)?.to_ascii_lowercase();
    if name == domain {
        return Ok(Target::ControlPlane);
    }
    let label = name.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')).ok_or(HostError::Unknown)?;
    match label {
        "api" => Ok(Target::ControlPlane),
        _ => sandbox(label),
    }
}

/// The one authority a request names, as it was written.
pub(crate) fn authority<'a>(version: Version, uri: &'a Uri, headers: &'a HeaderMap) -> Result<&'a str, HostError> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(HostError::Duplicate),
        (Some(value), None) => Some(value.to_str().map_err(|_: ToStrError| HostError::Malformed)?),
        (None, None) => None,
    };
    let named = uri.authority().map(http::uri::Authority::as_str);
    if uri.scheme_str().is_some_and(|scheme| scheme != "https" && scheme != "http") {
        return Err(HostError::Malformed);
    }
    match (named, host) {
        (Some(named), Some(host)) if named.eq_ignore_ascii_case(host) => Ok(host),
        (Some(_), Some(_)) => Err(HostError::Mismatch),
        (None, Some(host)) => Ok(host),
        (Some(named), None) if version == Version::HTTP_2 => Ok(named),
        (_, None) => Err(HostError::Missing),
    }
}

/// The name without its port and its trailing dot.
fn host_name(authority: &str) -> Result<&str, HostError> {
    let name = match authority.rsplit_once(':') {
        // RFC 3986 §3.2.3 lets the port be empty.
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
            if !port.is_empty() && port.parse::<u16>().is_err() {
                return Err(HostError::Malformed);
            }
            name
        }
        Some(_) => return Err(HostError::Malformed),
        None => authority,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'[' | b']' | b':');
    if name.is_empty() || !name.bytes().all(is_name) {
        return Err(HostError::Malformed);
    }
    Ok(name)
}

/// The sandbox and port a label means.
fn sandbox(label: &str) -> Result<Target, HostError> {
    if let Ok(id) = label.parse() {
        return Ok(Target::Sandbox { id, port: None });
    }
    let (id, port) = label.rsplit_once('-').ok_or(HostError::Unknown)?;
    let id = id.parse().map_err(|_: InvalidId| HostError::Unknown)?;
    Ok(Target::Sandbox { id, port: Some(app_port(port)?) })
}

fn app_port(text: &str) -> Result<u16, HostError> {
    let bad = || HostError::BadPort { text: text.to_owned() };
    if text.is_empty() || text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    match text.parse::<u16>().map_err(|_: ParseIntError| bad())? {
        AGENT_PORT => Err(HostError::AgentPort),
        port => Ok(port),
    }
}

#[cfg(test)]
mod tests;

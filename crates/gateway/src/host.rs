//! Reads from a request's host name which sandbox and port it is for.
//!
//! `forward.rs` calls it for every request before anything else. It is pure. The rules:
//!
//! - RFC 9112 §3.2: exactly one `Host`, also beside an absolute-form target, and both must agree. HTTP/2 may leave
//!   `Host` out and send `:authority`.
//! - Case, one trailing dot and the port in the host do not matter (the port may be anything: ports get forwarded).
//! - `<id>.<domain>` and `<id>-<port>.<domain>` are sandboxes, `<domain>` and `api.<domain>` the control plane.

use http::header::{HOST, ToStrError};
use http::{HeaderMap, Uri, Version};
use leapbox_api_types::ApiError;
use leapbox_guest_protocol::net::AGENT_PORT;
use leapbox_ids::{InvalidId, SandboxId};
use std::num::ParseIntError;

/// The destination that a host name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// The control plane's API, under `<domain>` or `api.<domain>`.
    ControlPlane,
    /// An application. Without a port it is the one that the sandbox's image names.
    Sandbox { id: SandboxId, port: Option<u16> },
}

/// A host name that leads nowhere, or that a request must not carry. The texts are sent to the client.
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
    #[error("`{text}` is not a port at which applications can be reached: use 1 to 65535, without leading zeros")]
    BadPort { text: String },
    #[error("port {AGENT_PORT} belongs to the sandbox's agent and cannot be reached")]
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

/// The destination of a request, as a server for `domain` reads it.
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

/// The one authority that a request names, as the client wrote it.
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
        // A difference is how a request is smuggled past a party that reads only one of the two.
        (Some(named), Some(host)) if named.eq_ignore_ascii_case(host) => Ok(host),
        (Some(_), Some(_)) => Err(HostError::Mismatch),
        (None, Some(host)) => Ok(host),
        (Some(named), None) if version == Version::HTTP_2 => Ok(named),
        (_, None) => Err(HostError::Missing),
    }
}

/// The authority's name, without its port and its trailing dot.
fn host_name(authority: &str) -> Result<&str, HostError> {
    let name = match authority.rsplit_once(':') {
        // RFC 3986 §3.2.3 lets the port be empty.
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
            // The port is whatever the client's side forwards to this gateway, so its value says nothing.
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

/// Reads `<id>` or `<id>-<port>`.
fn sandbox(label: &str) -> Result<Target, HostError> {
    // An id has hyphens itself, but never ends in `-<digits>`: a label that is an id has no port.
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
        // Whoever reached the agent could run commands and read files without the control plane's checks.
        AGENT_PORT => Err(HostError::AgentPort),
        port => Ok(port),
    }
}

#[cfg(test)]
mod tests;

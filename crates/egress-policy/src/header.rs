//! Which headers a transform may touch, and which values it may inject.

use std::fmt;

/// Longest value, in bytes.
pub(crate) const MAX_VALUE: usize = 8 * 1024;
const MAX_NAME: usize = 128;

/// Of one connection and not of the request, or what says where a request goes and where it ends (RFC 9110, 7.6.1):
/// who could change these could move the borders between requests.
const NOT_THEIRS: &[&str] =
    &["connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// A header's name in lower case.
pub(crate) fn name(text: &str) -> Result<String, NameFault> {
    if text.starts_with(':') {
        return Err(NameFault::Pseudo);
    }
    if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(is_token) {
        return Err(NameFault::Token);
    }
    let lower = text.to_ascii_lowercase();
    if NOT_THEIRS.contains(&lower.as_str()) || lower.starts_with("proxy-") {
        return Err(NameFault::NotTheirs { name: lower });
    }
    Ok(lower)
}

/// Whether a header can carry the value unchanged over HTTP/1.1 and HTTP/2.
pub(crate) fn check_value(value: &str) -> Result<(), &'static str> {
    if value.len() > MAX_VALUE {
        return Err("is longer than 8 KiB");
    }
    if value.bytes().any(|b| b.is_ascii_control()) {
        return Err("has a control character or a line break");
    }
    if value == crate::secret::REDACTED {
        return Err("is what answers show in place of a secret: give the value itself");
    }
    if value.starts_with(' ') || value.ends_with(' ') {
        return Err("begins or ends with a space");
    }
    Ok(())
}

/// A character of a token (RFC 9110, 5.6.2).
pub(crate) fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// Why a transform can't name a header.
pub(crate) enum NameFault {
    Pseudo,
    Token,
    NotTheirs { name: String },
}

impl fmt::Display for NameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameFault::Pseudo => f.write_str("pseudo-headers (`:authority` …) can't be changed"),
            NameFault::Token => f.write_str("a header's name is 1 to 128 letters, digits and !#$%&'*+-.^_`|~"),
            NameFault::NotTheirs { name } => {
                write!(f, "`{name}` says where a request goes or ends: it can't be changed")
            }
        }
    }
}

//! The headers that a transform may change, and the values that it may inject.

use std::fmt;

/// Longest injected value, in bytes.
pub(crate) const MAX_VALUE: usize = 8 * 1024;
const MAX_NAME: usize = 128;

// Fields of the connection (RFC 9110, 7.6.1), and those that say where a request goes and where its body ends. With
// these a transform could move the borders between requests.
const RESERVED: &[&str] =
    &["connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// Checks the name of a header that a transform changes, and returns it in lower case.
pub(crate) fn name(text: &str) -> Result<String, NameFault> {
    if text.starts_with(':') {
        return Err(NameFault::Pseudo);
    }
    if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(is_token) {
        return Err(NameFault::Token);
    }
    let lower = text.to_ascii_lowercase();
    if RESERVED.contains(&lower.as_str()) || lower.starts_with("proxy-") {
        return Err(NameFault::Reserved { name: lower });
    }
    Ok(lower)
}

/// Checks that a header carries the value unchanged over HTTP/1.1 and HTTP/2. The error ends a sentence that begins
/// with the header's name.
pub(crate) fn check_value(value: &str) -> Result<(), &'static str> {
    if value.len() > MAX_VALUE {
        return Err("is longer than 8 KiB");
    }
    if value.bytes().any(|b| b.is_ascii_control()) {
        return Err("has a control character or a line break");
    }
    // A client that sends back a policy it was shown would replace the secret by this word, and nobody would notice
    // before the upstream refuses it.
    if value == crate::secret::REDACTED {
        return Err("is what answers show in place of a secret: give the value itself");
    }
    // HTTP strips blanks around a value (RFC 9110, 5.5): the server would see another value than the policy says.
    if value.starts_with(' ') || value.ends_with(' ') {
        return Err("begins or ends with a space");
    }
    Ok(())
}

/// Whether the byte may be part of a token (RFC 9110, 5.6.2).
pub(crate) fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// The reason a transform cannot name a header.
pub(crate) enum NameFault {
    Pseudo,
    Token,
    Reserved { name: String },
}

impl fmt::Display for NameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameFault::Pseudo => f.write_str("pseudo-headers (`:authority` …) can't be changed"),
            NameFault::Token => f.write_str("a header's name is 1 to 128 letters, digits and !#$%&'*+-.^_`|~"),
            NameFault::Reserved { name } => {
                write!(f, "`{name}` says where a request goes or ends: it can't be changed")
            }
        }
    }
}

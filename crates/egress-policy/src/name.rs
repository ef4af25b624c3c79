//! Domain names in one normal form. All comparisons of names use it, so that no spelling passes a policy that another
//! one does not.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Longest name without its trailing dot (RFC 1035).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;
// Normalising Unicode costs time with the text's length, and a policy's author or a guest chooses the text. A valid
// name in Unicode is never longer than this in bytes.
const MAX_TEXT: usize = 1024;

/// A domain name in normal form: lower case, punycode, no trailing dot. Labels consist of letters, digits, underscores
/// and hyphens (not at either end). No program takes it for an IP address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(Arc<str>);

/// The reason a text is not a domain name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a domain name can't be empty")]
    Empty,
    #[error("a domain name has at most {MAX_NAME} characters, and {MAX_LABEL} between two dots")]
    TooLong,
    #[error("a domain name can't have an empty part: remove the extra dot")]
    EmptyLabel,
    #[error("a part of a domain name can't begin or end with a hyphen")]
    Hyphen,
    #[error("{character:?} can't be part of a domain name")]
    Character { character: char },
    #[error("not a valid international domain name (UTS 46)")]
    International,
    #[error("this is an IP address and not a domain name")]
    IpLiteral,
}

impl DomainName {
    /// Parses a name and returns its normal form. Unicode is turned into punycode (UTS 46), one trailing dot is
    /// removed.
    ///
    /// Whatever `inet_aton` or a URL parser takes for an IPv4 address is refused, by the rule of the WHATWG URL
    /// standard that no name ends in a number.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > MAX_TEXT {
            return Err(NameError::TooLong);
        }
        if is_ip(text) {
            return Err(NameError::IpLiteral);
        }
        let ascii = if text.is_ascii() {
            text.to_ascii_lowercase()
        } else {
            let ascii = idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::EMPTY);
            ascii.map_err(|_: idna::Errors| NameError::International)?.into_owned()
        };
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        check(name)?;
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Parses a name that a guest has sent in a DNS query, a ClientHello or a `Host`. Those carry punycode only; a
    /// server that read raw Unicode would choose its own mapping.
    pub(crate) fn from_wire(bytes: &[u8]) -> Result<Self, NameError> {
        match std::str::from_utf8(bytes) {
            Ok(text) if text.is_ascii() => Self::parse(text),
            Ok(_) | Err(_) => Err(NameError::International),
        }
    }
}

fn is_ip(text: &str) -> bool {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    inner.parse::<IpAddr>().is_ok()
}

fn check(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if let Some(character) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !"-_.".contains(*c)) {
        return Err(NameError::Character { character });
    }
    if name.len() > MAX_NAME {
        return Err(NameError::TooLong);
    }
    for label in name.split('.') {
        check_label(label)?;
    }
    // `0x7f.1` and `2130706433` are addresses to `inet_aton`: a client would connect without asking the name server.
    match name.rsplit('.').next() {
        Some(last) if is_number(last) => Err(NameError::IpLiteral),
        Some(_) | None => Ok(()),
    }
}

fn check_label(label: &str) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::EmptyLabel);
    }
    if label.len() > MAX_LABEL {
        return Err(NameError::TooLong);
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(NameError::Hyphen);
    }
    Ok(())
}

/// Whether a URL parser would take the label for the last part of an IPv4 address (decimal, octal or hexadecimal).
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
    hexadecimal || label.bytes().all(|b| b.is_ascii_digit())
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

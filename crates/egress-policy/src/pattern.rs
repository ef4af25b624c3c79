//! The patterns of `allow_domains` and of transforms, and the names that they match.

use crate::name::{DomainName, NameError};
use std::fmt;
use std::net::IpAddr;

/// `example.com` matches exactly that name. `*.example.com` matches every name below it at any depth, and not
/// example.com itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DomainPattern {
    is_wildcard: bool,
    name: DomainName,
}

/// The reason a text is not a pattern. The texts are read by API clients and say what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("a URL is not a domain: give its host alone, such as example.com")]
    Url,
    #[error("a domain is allowed on every port: leave the port out")]
    Port,
    #[error("this is an IP address: put it into allow_cidrs")]
    Ip,
    #[error("IPv6 is not supported: give a domain, or an IPv4 network in allow_cidrs")]
    Ipv6,
    #[error("`*` alone is not a domain: use mode allow-all to allow everything")]
    Everything,
    #[error("`*` can only be the first part and means every name below a domain: *.example.com")]
    Wildcard,
    #[error("a domain has at least two parts, such as example.com or *.example.com")]
    OneLabel,
    #[error(transparent)]
    Name(NameError),
}

impl DomainPattern {
    /// Parses an entry of `allow_domains`, or a transform's `domain`.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        refuse_non_domains(text)?;
        let (is_wildcard, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if rest.contains('*') {
            return Err(PatternError::Wildcard);
        }
        let name = DomainName::parse(rest).map_err(|error| match error {
            NameError::IpLiteral => PatternError::Ip,
            other => PatternError::Name(other),
        })?;
        if !name.as_str().contains('.') {
            return Err(PatternError::OneLabel);
        }
        Ok(Self { is_wildcard, name })
    }

    pub fn matches(&self, name: &DomainName) -> bool {
        if !self.is_wildcard {
            return *name == self.name;
        }
        let prefix = name.as_str().strip_suffix(self.name.as_str());
        // The dot keeps `*.x.com` from matching evilx.com, and the length from matching `.x.com`, which is no name.
        prefix.is_some_and(|prefix| prefix.len() > 1 && prefix.ends_with('.'))
    }

    /// Orders patterns: the more specific one is greater. An exact name is more specific than any wildcard, a longer
    /// wildcard than a shorter one.
    pub(crate) fn specificity(&self) -> (bool, usize) {
        (!self.is_wildcard, self.name.as_str().len())
    }
}

/// Refuses what people write in place of a domain, each with its own advice.
fn refuse_non_domains(text: &str) -> Result<(), PatternError> {
    // Addresses come first: their prefix length would be taken for a URL's path, and IPv6's colons for a port.
    let bare = text.trim_start_matches('[').split(']').next().unwrap_or(text);
    match bare.split('/').next().unwrap_or(bare).parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => return Err(PatternError::Ip),
        Ok(IpAddr::V6(_)) => return Err(PatternError::Ipv6),
        Err(_) => {}
    }
    if text.contains(['/', '?', '#', '@']) {
        return Err(PatternError::Url);
    }
    if text.contains(':') {
        return Err(PatternError::Port);
    }
    if text == "*" {
        return Err(PatternError::Everything);
    }
    Ok(())
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_wildcard { write!(f, "*.{}", self.name) } else { write!(f, "{}", self.name) }
    }
}

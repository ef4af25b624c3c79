//! Which names an entry of a policy means.

use crate::name::{DomainName, NameError};
use std::fmt;
use std::net::IpAddr;

/// `example.com`: exactly that name. `*.example.com`: every name below it at any depth, and not example.com itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DomainPattern {
    below: bool,
    name: DomainName,
}

/// Why a text is no pattern, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("a URL is not a domain: give its host alone, such as example.com")]
    Url,
    #[error("a domain is allowed on every port: leave the port away")]
    Port,
    #[error("this is an IP address: put it into allow_cidrs")]
    Ip,
    #[error("IPv6 is not offered: give a domain, or an IPv4 network in allow_cidrs")]
    Ipv6,
    #[error("`*` alone is not a domain: mode allow-all lets everything through")]
    Everything,
    #[error("`*` stands for all below a domain, and only as the first part: *.example.com")]
    Wildcard,
    #[error("a domain has two parts at least, such as example.com or *.example.com")]
    OneLabel,
    #[error(transparent)]
    Name(NameError),
}

impl DomainPattern {
    /// Parses an entry of `allow_domains`, or a transform's `domain`.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        refuse_other_things(text)?;
        let (below, rest) = match text.strip_prefix("*.") {
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
        Ok(Self { below, name })
    }

    /// Whether the name is meant.
    pub fn matches(&self, name: &DomainName) -> bool {
        if !self.below {
            return *name == self.name;
        }
        let prefix = name.as_str().strip_suffix(self.name.as_str());
        prefix.is_some_and(|prefix| prefix.len() > 1 && prefix.ends_with('.'))
    }

    /// The more particular pattern has the greater one: an exact name before any wildcard, a long one before a short.
    pub(crate) fn particularity(&self) -> (bool, usize) {
        (!self.below, self.name.as_str().len())
    }
}

/// What people write in place of a domain, each with an answer of its own.
fn refuse_other_things(text: &str) -> Result<(), PatternError> {
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
        if self.below { write!(f, "*.{}", self.name) } else { write!(f, "{}", self.name) }
    }
}

//! A policy as data.

use crate::cidr::Cidr;
use crate::pattern::DomainPattern;
use crate::secret::Secret;
use std::fmt;

/// What a sandbox may reach (the API's `network_policy`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Policy {
    /// Everything public.
    #[default]
    AllowAll,
    /// Nothing, names included.
    DenyAll,
    /// What is listed, and nothing else.
    Custom(Custom),
}

/// The lists of mode `custom`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Custom {
    /// At most 50. Reached by name, over TCP.
    pub allow_domains: Vec<DomainPattern>,
    /// At most 10. Reached by address: TCP, UDP but 443, ICMP.
    pub allow_cidrs: Vec<Cidr>,
    /// At most 20, each for another pattern. Their domains are allowed by being here.
    pub transforms: Vec<Transform>,
}

/// What is done to the requests to a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transform {
    pub domain: DomainPattern,
    /// Headers that take the place of the guest's own: names in lower case, each once, at most 32.
    pub inject: Vec<(String, Secret)>,
    /// Headers that are taken out: names in lower case, each once, at most 32.
    pub strip: Vec<String>,
}

impl Transform {
    /// Whether a header of the guest's, its name in lower case, is to be removed: it is stripped or takes the place
    /// of an injected one.
    pub fn removes(&self, name: &str) -> bool {
        self.strip.iter().any(|stripped| stripped == name) || self.inject.iter().any(|(injected, _)| injected == name)
    }
}

/// One bad entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Empty for the object itself, else such as `allow_domains[2]` or `transforms[0].domain`.
    pub at: String,
    /// What is wrong, as the end of a sentence that begins with the entry. Holds no header's value.
    pub error: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at.is_empty() { f.write_str(&self.error) } else { write!(f, "{}: {}", self.at, self.error) }
    }
}

impl Policy {
    /// Whether it holds values that must be stored sealed.
    pub fn has_secrets(&self) -> bool {
        self.transforms().iter().any(|transform| !transform.inject.is_empty())
    }

    /// Whether TLS of some domains is terminated, for which the sandbox needs a certificate authority.
    pub fn has_transforms(&self) -> bool {
        !self.transforms().is_empty()
    }

    fn transforms(&self) -> &[Transform] {
        match self {
            Policy::AllowAll | Policy::DenyAll => &[],
            Policy::Custom(custom) => &custom.transforms,
        }
    }
}

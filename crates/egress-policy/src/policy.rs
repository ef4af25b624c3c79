//! A sandbox's network policy as data.

use crate::cidr::Cidr;
use crate::pattern::DomainPattern;
use crate::secret::Secret;
use std::fmt;

/// The destinations that a sandbox may reach (the API's `network_policy`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Policy {
    /// Every public address is reached directly, over any protocol.
    #[default]
    AllowAll,
    /// Nothing is reached, and no name is resolved.
    DenyAll,
    /// Only what the lists name is reached.
    Custom(Custom),
}

/// The lists of mode `custom`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Custom {
    /// At most 50. They are reached by name, over TCP, through the egress proxy.
    pub allow_domains: Vec<DomainPattern>,
    /// At most 10. They are reached by address and without the proxy: over TCP, ICMP, and UDP except port 443.
    pub allow_cidrs: Vec<Cidr>,
    /// At most 20, each with a different pattern. A transform's domain needs no entry in `allow_domains`.
    pub transforms: Vec<Transform>,
}

/// The changes that the proxy makes to the requests to a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transform {
    pub domain: DomainPattern,
    /// Headers that replace the guest's own: names in lower case, each once, at most 32.
    pub inject: Vec<(String, Secret)>,
    /// Headers that are removed: names in lower case, each once, at most 32.
    pub strip: Vec<String>,
}

impl Transform {
    /// Whether a header that the guest has sent is removed: it is to be stripped, or an injected one replaces it. The
    /// name must be in lower case.
    pub fn removes(&self, name: &str) -> bool {
        self.strip.iter().any(|stripped| stripped == name) || self.inject.iter().any(|(injected, _)| injected == name)
    }
}

/// One invalid entry of a client's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Position of the entry, such as `allow_domains[2]` or `transforms[0].domain`. Empty for the object itself.
    pub at: String,
    /// The fault, as the end of a sentence that begins with the position. It holds no header's value.
    pub error: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at.is_empty() { f.write_str(&self.error) } else { write!(f, "{}: {}", self.at, self.error) }
    }
}

impl Policy {
    /// Whether the policy holds injected values, which must be stored sealed.
    pub fn has_secrets(&self) -> bool {
        self.transforms().iter().any(|transform| !transform.inject.is_empty())
    }

    /// Whether the TLS of some domains is terminated, for which the sandbox needs its own certificate authority.
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

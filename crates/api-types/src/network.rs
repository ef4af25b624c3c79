//! A network policy as the API shows it, and as a client sends it. `leapbox-egress-policy` parses and evaluates it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The destinations that a sandbox may reach. The lists are for `custom` alone.
// For the schema and for answers only: a request's policy is parsed field by field, so that every bad entry can be
// named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkPolicy {
    /// The kind of policy.
    pub mode: NetworkPolicyMode,
    /// Names that may be reached: `example.com` is that name alone, `*.example.com` every name below it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 50, example = json!(["pypi.org", "*.pythonhosted.org"]))]
    pub allow_domains: Vec<String>,
    /// IPv4 networks that may be reached with any protocol but QUIC.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 10, example = json!(["1.2.3.4/32"]))]
    pub allow_cidrs: Vec<String>,
    /// Rules that change the headers of requests to a name. The name is allowed by that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 20)]
    pub transforms: Vec<TransformRule>,
}

impl NetworkPolicy {
    /// The policy of a sandbox that was created without one.
    pub fn allow_all() -> Self {
        Self { mode: NetworkPolicyMode::AllowAll, allow_domains: vec![], allow_cidrs: vec![], transforms: vec![] }
    }
}

/// The kind of a network policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkPolicyMode {
    /// The sandbox reaches every public address.
    AllowAll,
    /// The sandbox reaches nothing, and resolves no names.
    DenyAll,
    /// The sandbox reaches what the lists allow.
    Custom,
}

/// Changes to the headers of requests to one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransformRule {
    /// A name or a wildcard, as in `allow_domains`.
    #[schema(example = "api.openai.com")]
    pub domain: String,
    /// Headers to set in every request, replacing the sandbox's own. The API shows `[redacted]` for their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inject_headers: BTreeMap<String, String>,
    /// Headers to remove from every request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strip_headers: Vec<String>,
}

//! A network policy as the API shows it, and as a client sends it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What a sandbox may reach. The server reads it field by field, to name every bad entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkPolicy {
    /// What is allowed besides the lists, which only `custom` has.
    pub mode: NetworkPolicyMode,
    /// Names that may be reached: `example.com` that one, `*.example.com` all below it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 50, example = json!(["pypi.org", "*.pythonhosted.org"]))]
    pub allow_domains: Vec<String>,
    /// IPv4 networks that may be reached, with any protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 10, example = json!(["1.2.3.4/32"]))]
    pub allow_cidrs: Vec<String>,
    /// Names whose requests are changed on their way; they are allowed by that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 20)]
    pub transforms: Vec<TransformRule>,
}

impl NetworkPolicy {
    /// What a sandbox has that was given none.
    pub fn allow_all() -> Self {
        Self { mode: NetworkPolicyMode::AllowAll, allow_domains: vec![], allow_cidrs: vec![], transforms: vec![] }
    }
}

/// What a policy allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkPolicyMode {
    /// Every public address.
    AllowAll,
    /// Nothing, not even names.
    DenyAll,
    /// What the lists say.
    Custom,
}

/// What happens to requests for one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransformRule {
    /// As in `allow_domains`.
    #[schema(example = "api.openai.com")]
    pub domain: String,
    /// Headers that every request gets, in place of the sandbox's own. Answers show `[redacted]` for their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inject_headers: BTreeMap<String, String>,
    /// Headers that no request keeps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strip_headers: Vec<String>,
}

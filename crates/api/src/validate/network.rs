//! The network policy of a create or a restore. `leapbox-egress-policy` parses it and knows its rules.

use crate::fields::Fields;
use leapbox_egress_policy::{Cidr, Policy};

const FIELD: &str = "network_policy";

/// Reads the policy, if one is given. Each bad entry is noted under a name of its own: `network_policy.allow_cidrs[2]`.
/// `private` are the private networks that policies may open on this installation.
pub(super) fn policy(fields: &mut Fields<'_>, private: &[Cidr]) -> Option<Policy> {
    let value = fields.value(FIELD)?;
    match Policy::parse(value, private) {
        Ok(policy) => Some(policy),
        Err(problems) => {
            for problem in problems {
                let dot = if problem.at.is_empty() { "" } else { "." };
                fields.refuse(&format!("{FIELD}{dot}{}", problem.at), problem.error);
            }
            None
        }
    }
}

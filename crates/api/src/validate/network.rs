//! The network policy of a create or a restore. What it may say is the business of `leapbox-egress-policy`.

use crate::fields::Fields;
use leapbox_egress_policy::{Cidr, Policy};

const FIELD: &str = "network_policy";

/// The policy, if one is given. Every bad entry is noted under its own name: `network_policy.allow_cidrs[2]`.
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

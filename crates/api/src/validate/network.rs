//! The network policy of a create or a restore.

use crate::fields::Fields;
use serde_json::Value;

const FIELD: &str = "network_policy";

/// Only `allow-all` is enforced yet, so only `allow-all` is taken.
pub(super) fn refuse_others(fields: &mut Fields<'_>) {
    let Some(value) = fields.value(FIELD) else { return };
    let Value::Object(policy) = value else {
        fields.refuse(FIELD, "must be an object");
        return;
    };
    match policy.get("mode").and_then(Value::as_str) {
        Some("allow-all") => {}
        Some("deny-all" | "custom") => {
            fields.refuse(FIELD, "only the mode allow-all is supported yet: other policies are not enforced");
        }
        _ => fields.refuse(FIELD, "mode must be one of allow-all, deny-all, custom"),
    }
    for list in ["allow_domains", "allow_cidrs", "transforms"] {
        match policy.get(list) {
            None | Some(Value::Null) => {}
            Some(Value::Array(entries)) if entries.is_empty() => {}
            Some(Value::Array(_)) => fields.refuse(FIELD, format!("{list} is not supported yet; leave it out")),
            Some(_) => fields.refuse(FIELD, format!("{list} must be an array")),
        }
    }
}

//! Writes a policy as the API's JSON: with its secret values for sealed storage, redacted for all other readers.

use crate::policy::{Custom, Policy, Transform};
use crate::secret::{REDACTED, Secret};
use serde_json::{Map, Value, json};

/// Writes the value of an injected header, in clear or redacted.
type Write = fn(&Secret) -> Value;

impl Policy {
    /// The policy in the API's form with the secret values, as [`Policy::stored`] reads it. The caller must seal it
    /// (encrypt it under the server's key) before it is stored.
    pub fn document(&self) -> Value {
        write(self, |secret| secret.expose().into())
    }

    /// The policy in the API's form for answers: the values of injected headers are replaced by `[redacted]`.
    pub fn shown(&self) -> Value {
        write(self, |_| REDACTED.into())
    }
}

fn write(policy: &Policy, value: Write) -> Value {
    match policy {
        Policy::AllowAll => json!({ "mode": "allow-all" }),
        Policy::DenyAll => json!({ "mode": "deny-all" }),
        Policy::Custom(custom) => write_custom(custom, value),
    }
}

fn write_custom(custom: &Custom, value: Write) -> Value {
    let mut object = Map::new();
    object.insert("mode".into(), "custom".into());
    put(&mut object, "allow_domains", custom.allow_domains.iter().map(|domain| domain.to_string().into()).collect());
    put(&mut object, "allow_cidrs", custom.allow_cidrs.iter().map(|cidr| cidr.to_string().into()).collect());
    put(&mut object, "transforms", custom.transforms.iter().map(|each| write_transform(each, value)).collect());
    Value::Object(object)
}

fn write_transform(transform: &Transform, value: Write) -> Value {
    let mut object = Map::new();
    object.insert("domain".into(), transform.domain.to_string().into());
    if !transform.inject.is_empty() {
        let headers = transform.inject.iter().map(|(name, secret)| (name.clone(), value(secret)));
        object.insert("inject_headers".into(), Value::Object(headers.collect()));
    }
    put(&mut object, "strip_headers", transform.strip.iter().map(|name| name.as_str().into()).collect());
    Value::Object(object)
}

fn put(object: &mut Map<String, Value>, field: &str, list: Vec<Value>) {
    // The official clients leave empty lists out as well.
    if !list.is_empty() {
        object.insert(field.into(), Value::Array(list));
    }
}

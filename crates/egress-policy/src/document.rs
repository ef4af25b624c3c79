//! From a policy back to the API's JSON: with its secrets for sealed storage, and without them for everybody else.

use crate::policy::{Custom, Policy, Transform};
use crate::secret::{REDACTED, Secret};
use serde_json::{Map, Value, json};

/// How the value of an injected header is written.
type Write = fn(&Secret) -> Value;

impl Policy {
    /// The API's form, with the secret values: what [`Policy::stored`] reads. Only for sealed storage.
    pub fn document(&self) -> Value {
        write(self, |secret| secret.expose().into())
    }

    /// The API's form, the values of injected headers replaced by `[redacted]`: for answers.
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

/// Lists that are empty are left out, as clients do.
fn put(object: &mut Map<String, Value>, field: &str, list: Vec<Value>) {
    if !list.is_empty() {
        object.insert(field.into(), Value::Array(list));
    }
}

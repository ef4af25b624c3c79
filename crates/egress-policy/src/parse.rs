//! Parses the API's JSON into a policy. All bad entries are reported together, so that a client can correct them in one
//! go. Unknown fields are ignored, and null counts as absent.

use crate::cidr::Cidr;
use crate::header;
use crate::pattern::DomainPattern;
use crate::policy::{Custom, Policy, Problem, Transform};
use crate::secret::Secret;
use crate::unreachable;
use serde_json::{Map, Value};

// The limits of the API's contract (docs/network-policy.md). Every name and connection of a sandbox is compared with
// its policy's entries one by one, which is fast enough for this many.
const MAX_DOMAINS: usize = 50;
const MAX_CIDRS: usize = 10;
const MAX_TRANSFORMS: usize = 20;
/// Headers that one transform may inject; it may strip as many.
const MAX_HEADERS: usize = 32;
const LISTS: [&str; 3] = ["allow_domains", "allow_cidrs", "transforms"];

impl Policy {
    /// Parses a client's `network_policy`; null is the default, allow-all. `operator` lists the private networks that a
    /// policy may open; other private networks in `allow_cidrs` are refused.
    pub fn parse(value: &Value, operator: &[Cidr]) -> Result<Policy, Vec<Problem>> {
        read(value, Some(operator))
    }

    /// Reads what [`Policy::document`] has written.
    pub fn stored(value: &Value) -> Result<Policy, Vec<Problem>> {
        // The operator's list may have shrunk since, and a paused sandbox must wake all the same. What the list no
        // longer opens stays closed when the policy is evaluated.
        read(value, None)
    }
}

fn read(value: &Value, operator: Option<&[Cidr]>) -> Result<Policy, Vec<Problem>> {
    let mut problems = Problems::default();
    let policy = match value {
        Value::Null => Policy::AllowAll,
        Value::Object(object) => problems.policy(object, operator),
        _ => {
            problems.add("", "must be an object");
            // Never used: a value with problems becomes an error. Closed, should that ever change.
            Policy::DenyAll
        }
    };
    if problems.0.is_empty() { Ok(policy) } else { Err(problems.0) }
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, at: impl Into<String>, error: impl Into<String>) {
        self.0.push(Problem { at: at.into(), error: error.into() });
    }

    fn policy(&mut self, object: &Map<String, Value>, operator: Option<&[Cidr]>) -> Policy {
        let policy = match object.get("mode").and_then(Value::as_str) {
            Some("allow-all") => Policy::AllowAll,
            Some("deny-all") => Policy::DenyAll,
            Some("custom") => return Policy::Custom(self.custom(object, operator)),
            Some(_) | None => {
                self.add("mode", "must be one of allow-all, deny-all, custom");
                return Policy::DenyAll;
            }
        };
        for list in LISTS {
            // Accepted, the list would let its author believe in a rule that is not in force.
            if !self.list(object, list, usize::MAX).is_empty() {
                self.add(list, "is for mode custom: leave it out, or set the mode");
            }
        }
        policy
    }

    fn custom(&mut self, object: &Map<String, Value>, operator: Option<&[Cidr]>) -> Custom {
        let mut custom = Custom::default();
        for (index, entry) in self.list(object, "allow_domains", MAX_DOMAINS).iter().enumerate() {
            custom.allow_domains.extend(self.domain(format!("allow_domains[{index}]"), Some(entry)));
        }
        for (index, entry) in self.list(object, "allow_cidrs", MAX_CIDRS).iter().enumerate() {
            custom.allow_cidrs.extend(self.cidr(format!("allow_cidrs[{index}]"), entry, operator));
        }
        for (index, entry) in self.list(object, "transforms", MAX_TRANSFORMS).iter().enumerate() {
            let Some(transform) = self.transform(&format!("transforms[{index}]"), entry) else { continue };
            if custom.transforms.iter().any(|other| other.domain == transform.domain) {
                self.add(format!("transforms[{index}].domain"), "has a transform already: put both into one");
            }
            custom.transforms.push(transform);
        }
        custom
    }

    fn list<'v>(&mut self, object: &'v Map<String, Value>, field: &str, limit: usize) -> &'v [Value] {
        self.entries(object.get(field), field, limit)
    }

    fn entries<'v>(&mut self, value: Option<&'v Value>, at: &str, limit: usize) -> &'v [Value] {
        match value {
            None | Some(Value::Null) => &[],
            Some(Value::Array(entries)) if entries.len() <= limit => entries,
            // One problem for the list, none for its entries: a body full of bad entries must not become as many
            // errors.
            Some(Value::Array(entries)) => {
                self.add(at, format!("has {} entries, and {limit} are allowed", entries.len()));
                &[]
            }
            Some(_) => {
                self.add(at, "must be an array");
                &[]
            }
        }
    }

    fn domain(&mut self, at: String, entry: Option<&Value>) -> Option<DomainPattern> {
        let Some(text) = entry.and_then(Value::as_str) else {
            self.add(at, "must be a string");
            return None;
        };
        DomainPattern::parse(text).map_err(|error| self.add(at, error.to_string())).ok()
    }

    fn cidr(&mut self, at: String, entry: &Value, operator: Option<&[Cidr]>) -> Option<Cidr> {
        let Some(text) = entry.as_str() else {
            self.add(at, "must be a string");
            return None;
        };
        let cidr = Cidr::parse(text).map_err(|error| self.add(&at, error.to_string())).ok()?;
        let opened = operator.is_none_or(|opened| opened.iter().any(|open| open.contains_all(&cidr)));
        // A network that is public in part is accepted for that part; only what could never reach anything is an error.
        if let Some(what) = unreachable::why_all_closed(&cidr).filter(|_| !opened) {
            self.add(at, format!("is {what}: no sandbox may reach it unless the operator lists it"));
            return None;
        }
        Some(cidr)
    }

    fn transform(&mut self, at: &str, entry: &Value) -> Option<Transform> {
        let Some(object) = entry.as_object() else {
            self.add(at, "must be an object");
            return None;
        };
        let domain = self.domain(format!("{at}.domain"), object.get("domain"));
        let inject = self.inject(&format!("{at}.inject_headers"), object.get("inject_headers"));
        let strip = self.strip(&format!("{at}.strip_headers"), object.get("strip_headers"));
        Some(Transform { domain: domain?, inject, strip })
    }

    fn inject(&mut self, at: &str, value: Option<&Value>) -> Vec<(String, Secret)> {
        let object = match value {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Object(object)) if object.len() <= MAX_HEADERS => object,
            Some(Value::Object(object)) => {
                self.add(at, format!("has {} entries, and {MAX_HEADERS} are allowed", object.len()));
                return Vec::new();
            }
            Some(_) => {
                self.add(at, "must be an object of strings");
                return Vec::new();
            }
        };
        let mut inject: Vec<(String, Secret)> = Vec::with_capacity(object.len());
        for (name, value) in object {
            let Some(name) = self.header_name(at, name) else { continue };
            // JSON keys that differ in case are one header: which value would win is not to be guessed.
            if inject.iter().any(|(other, _)| *other == name) {
                self.add(at, format!("has `{name}` twice: case makes no difference"));
                continue;
            }
            match value.as_str().ok_or("must be a string").and_then(|text| header::check_value(text).map(|()| text)) {
                Ok(text) => inject.push((name, Secret::new(text))),
                Err(fault) => self.add(at, format!("the value of `{name}` {fault}")),
            }
        }
        inject
    }

    fn strip(&mut self, at: &str, value: Option<&Value>) -> Vec<String> {
        let mut strip = Vec::new();
        for (index, entry) in self.entries(value, at, MAX_HEADERS).iter().enumerate() {
            let at = format!("{at}[{index}]");
            let Some(text) = entry.as_str() else {
                self.add(at, "must be a string");
                continue;
            };
            if let Some(name) = self.header_name(&at, text).filter(|name| !strip.contains(name)) {
                strip.push(name);
            }
        }
        strip
    }

    fn header_name(&mut self, at: &str, text: &str) -> Option<String> {
        header::name(text).map_err(|fault| self.add(at, fault.to_string())).ok()
    }
}

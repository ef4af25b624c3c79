//! Creating and listing sandboxes.

use crate::fields::Fields;
use leapbox_api_types::ApiError;
use leapbox_api_types::sandbox::{
    DEFAULT_MEMORY_MIB, DEFAULT_TEMPLATE, DEFAULT_TIMEOUT_S, DEFAULT_VCPU, MEMORY_MIB_RANGE, NewSandbox,
    SandboxListQuery, SandboxSort, SandboxState, SortOrder, TEMPLATE_NAME_MAX, TIMEOUT_S_RANGE, VCPU_RANGE,
};
use serde_json::{Map, Value};

/// Sandboxes on a page when nothing is asked for.
const DEFAULT_PAGE_SIZE: u64 = 20;
/// Sandboxes on a page.
const PAGE_SIZE_MAX: u64 = 100;

/// A create.
pub(crate) fn create(body: &Map<String, Value>) -> Result<NewSandbox, ApiError> {
    let mut fields = Fields::new(body);
    let new = NewSandbox {
        template_name: template_name(&mut fields),
        vcpu: fields.integer("vcpu", VCPU_RANGE).unwrap_or(DEFAULT_VCPU),
        memory_mib: memory(&mut fields),
        timeout_s: fields.integer("timeout", TIMEOUT_S_RANGE).unwrap_or(DEFAULT_TIMEOUT_S),
        env_vars: fields.environment("env_vars"),
    };
    refuse_auto_pause(&mut fields);
    refuse_mounts(&mut fields);
    refuse_network_policy(&mut fields);
    fields.done(new)
}

fn template_name(fields: &mut Fields<'_>) -> String {
    let Some(name) = fields.text("template_name").map(str::trim) else { return DEFAULT_TEMPLATE.to_owned() };
    if name.is_empty() {
        fields.refuse("template_name", "must not be empty");
    } else if name.chars().count() > TEMPLATE_NAME_MAX {
        fields.refuse("template_name", format!("must be at most {TEMPLATE_NAME_MAX} characters long"));
    } else if name.chars().any(char::is_control) {
        fields.refuse("template_name", "must not contain control characters");
    }
    name.to_owned()
}

fn memory(fields: &mut Fields<'_>) -> u64 {
    let memory = fields.integer("memory", MEMORY_MIB_RANGE).unwrap_or(DEFAULT_MEMORY_MIB);
    if !memory.is_multiple_of(2) {
        fields.refuse("memory", "must be an even number of MiB");
    }
    memory
}

fn refuse_auto_pause(fields: &mut Fields<'_>) {
    if fields.flag("auto_pause") {
        fields.refuse("auto_pause", "pausing at the timeout is not supported yet; leave it out or send false");
    }
}

fn refuse_mounts(fields: &mut Fields<'_>) {
    match fields.value("mounts") {
        None => {}
        Some(Value::Array(mounts)) if mounts.is_empty() => {}
        Some(Value::Array(_)) => fields.refuse("mounts", "mounts are not supported yet; leave the field out"),
        Some(_) => fields.refuse("mounts", "must be an array"),
    }
}

/// Only `allow-all` is enforced yet, so only `allow-all` is taken.
fn refuse_network_policy(fields: &mut Fields<'_>) {
    const FIELD: &str = "network_policy";
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

/// A list. The parameters are texts.
pub(crate) fn list(query: &Map<String, Value>) -> Result<SandboxListQuery, ApiError> {
    let mut fields = Fields::new(query);
    let checked = SandboxListQuery {
        state: state(&mut fields),
        sort: word(&mut fields, "sort", &[("created_at", SandboxSort::CreatedAt), ("state", SandboxSort::State)])
            .unwrap_or(SandboxSort::CreatedAt),
        order: word(&mut fields, "order-by", &[("asc", SortOrder::Ascending), ("desc", SortOrder::Descending)])
            .unwrap_or(SortOrder::Descending),
        page: number(&mut fields, "page", u64::MAX).unwrap_or(1),
        page_size: number(&mut fields, "page-size", PAGE_SIZE_MAX).unwrap_or(DEFAULT_PAGE_SIZE),
    };
    fields.done(checked)
}

/// Deleted sandboxes are never listed, so `deleted` is no filter.
fn state(fields: &mut Fields<'_>) -> Option<SandboxState> {
    let words: Vec<(&str, SandboxState)> = SandboxState::ALL
        .into_iter()
        .filter(|state| *state != SandboxState::Deleted)
        .map(|state| (state.as_str(), state))
        .collect();
    word(fields, "state", &words)
}

/// One of some words.
fn word<T: Copy>(fields: &mut Fields<'_>, field: &str, words: &[(&str, T)]) -> Option<T> {
    let text = fields.text(field)?;
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    if found.is_none() {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        fields.refuse(field, format!("must be one of {}", words.join(", ")));
    }
    found
}

/// A number from 1 to `max`, in digits.
fn number(fields: &mut Fields<'_>, field: &str, max: u64) -> Option<u64> {
    let text = fields.text(field)?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && (1..=max).contains(number));
    if number.is_none() {
        let range = if max == u64::MAX { "of at least 1".to_owned() } else { format!("between 1 and {max}") };
        fields.refuse(field, format!("must be an integer {range}"));
    }
    number
}

#[cfg(test)]
mod tests;

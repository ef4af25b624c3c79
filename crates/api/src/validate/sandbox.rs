//! Checks requests to create and to list sandboxes.

use super::{network, paging};
use crate::fields::Fields;
use leapbox_api_types::ApiError;
use leapbox_api_types::sandbox::{
    DEFAULT_MEMORY_MIB, DEFAULT_TEMPLATE, DEFAULT_TIMEOUT_S, DEFAULT_VCPU, MEMORY_MIB_RANGE, NewSandbox,
    SandboxListQuery, SandboxSort, SandboxState, TEMPLATE_NAME_MAX, TIMEOUT_S_RANGE, VCPU_RANGE,
};
use leapbox_egress_policy::Cidr;
use serde_json::{Map, Value};

/// Checks a create. `private` are the private networks that policies may open on this installation.
pub(crate) fn create(body: &Map<String, Value>, private: &[Cidr]) -> Result<NewSandbox, ApiError> {
    let mut fields = Fields::new(body);
    let new = NewSandbox {
        template_name: fields.name("template_name", TEMPLATE_NAME_MAX).unwrap_or(DEFAULT_TEMPLATE).to_owned(),
        vcpu: fields.integer("vcpu", VCPU_RANGE).unwrap_or(DEFAULT_VCPU),
        memory_mib: memory(&mut fields),
        timeout_s: fields.integer("timeout", TIMEOUT_S_RANGE).unwrap_or(DEFAULT_TIMEOUT_S),
        env_vars: fields.environment("env_vars"),
        auto_pause: fields.flag("auto_pause"),
        network_policy: network::policy(&mut fields, private).unwrap_or_default(),
    };
    refuse_mounts(&mut fields);
    fields.done(new)
}

fn memory(fields: &mut Fields<'_>) -> u64 {
    // The published schema's rule.
    let memory = fields.integer("memory", MEMORY_MIB_RANGE).unwrap_or(DEFAULT_MEMORY_MIB);
    if !memory.is_multiple_of(2) {
        fields.refuse("memory", "must be an even number of MiB");
    }
    memory
}

fn refuse_mounts(fields: &mut Fields<'_>) {
    // Refused and not ignored: a sandbox that silently lacks its mount would lose what is written there.
    match fields.value("mounts") {
        None => {}
        Some(Value::Array(mounts)) if mounts.is_empty() => {}
        Some(Value::Array(_)) => fields.refuse("mounts", "mounts are not supported yet; leave the field out"),
        Some(_) => fields.refuse("mounts", "must be an array"),
    }
}

pub(crate) fn list(query: &Map<String, Value>) -> Result<SandboxListQuery, ApiError> {
    const SORTS: [(&str, SandboxSort); 2] = [("created_at", SandboxSort::CreatedAt), ("state", SandboxSort::State)];
    let mut fields = Fields::new(query);
    let checked = SandboxListQuery {
        state: state(&mut fields),
        sort: paging::word(&mut fields, "sort", &SORTS).unwrap_or(SandboxSort::CreatedAt),
        order: paging::order(&mut fields),
        page: paging::page(&mut fields),
        page_size: paging::page_size(&mut fields),
    };
    fields.done(checked)
}

/// Reads the state to filter by.
fn state(fields: &mut Fields<'_>) -> Option<SandboxState> {
    // Deleted sandboxes are never listed, so a filter for them could only answer an empty list.
    let words: Vec<(&str, SandboxState)> = SandboxState::ALL
        .into_iter()
        .filter(|state| *state != SandboxState::Deleted)
        .map(|state| (state.as_str(), state))
        .collect();
    paging::word(fields, "state", &words)
}

#[cfg(test)]
mod tests;

//! Conversions from the database's sandboxes and snapshots to the API's types.

use crate::clock::rfc3339;
use leapbox_api_types::network::{NetworkPolicy, NetworkPolicyMode};
use leapbox_api_types::sandbox::{SandboxDetails, SandboxListItem};
use leapbox_api_types::snapshot::SnapshotDetails;
use leapbox_db::{Sandbox, SnapshotRow};
use leapbox_errors::chain;

pub(crate) fn details(sandbox: &Sandbox) -> SandboxDetails {
    let spec = &sandbox.spec;
    SandboxDetails {
        id: spec.id.clone(),
        template_id: spec.template.clone(),
        vcpu: u64::from(spec.vcpu),
        memory: u64::from(spec.memory_mib),
        disk: spec.disk_mib,
        timeout: spec.timeout_s,
        state: sandbox.state(),
        state_reason: sandbox.reason.clone(),
        auto_pause: spec.auto_pause,
        network_policy: Some(policy(spec.network_policy.as_deref())),
        created_at: rfc3339(spec.created_at_ms),
    }
}

pub(crate) fn list_item(sandbox: &Sandbox) -> SandboxListItem {
    let spec = &sandbox.spec;
    SandboxListItem {
        id: spec.id.clone(),
        template_id: spec.template.clone(),
        pod_id: spec.pod_id.clone(),
        state: sandbox.state(),
        launch_time: sandbox.launched_at_ms.map(rfc3339),
        state_change_time: rfc3339(sandbox.since_ms),
        timeout_at: sandbox.status.live().map(|live| live.timeout_at_ms.div_euclid(1000)),
        created_at: rfc3339(spec.created_at_ms),
    }
}

pub(crate) fn snapshot(row: SnapshotRow) -> SnapshotDetails {
    SnapshotDetails {
        id: row.id,
        name: row.name,
        template_id: row.template,
        vcpu: u64::from(row.vcpu),
        memory: u64::from(row.memory_mib),
        disk: row.disk_mib,
        network_policy: Some(policy(row.network_policy.as_deref())),
        created_at: rfc3339(row.created_at_ms),
    }
}

/// The policy in the form without secrets that the database keeps beside the sealed one.
fn policy(shown: Option<&str>) -> NetworkPolicy {
    // No policy is stored for `allow-all`, which is the default.
    let Some(shown) = shown else { return NetworkPolicy::allow_all() };
    serde_json::from_str(shown).unwrap_or_else(|error| {
        tracing::error!(error = %chain(&error), "a stored network policy cannot be shown");
        // `custom` without entries allows nothing. Showing `allow-all` would claim more than is in force.
        NetworkPolicy { mode: NetworkPolicyMode::Custom, ..NetworkPolicy::allow_all() }
    })
}

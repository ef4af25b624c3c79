//! A row of the database as the API shows it.

use crate::clock::rfc3339;
use leapbox_api_types::network::{NetworkPolicy, NetworkPolicyMode};
use leapbox_api_types::sandbox::{SandboxDetails, SandboxListItem};
use leapbox_api_types::snapshot::SnapshotDetails;
use leapbox_db::{SandboxRow, SnapshotRow};

pub(crate) fn details(row: &SandboxRow) -> SandboxDetails {
    SandboxDetails {
        id: row.id.clone(),
        template_id: row.template.clone(),
        vcpu: u64::from(row.vcpu),
        memory: u64::from(row.memory_mib),
        disk: row.disk_mib,
        timeout: row.timeout_s,
        state: row.state,
        state_reason: row.state_reason.clone(),
        auto_pause: row.auto_pause,
        network_policy: Some(policy(row.network_policy.as_deref())),
        created_at: rfc3339(row.created_at_ms),
    }
}

pub(crate) fn list_item(row: SandboxRow) -> SandboxListItem {
    SandboxListItem {
        id: row.id,
        template_id: row.template,
        pod_id: row.pod_id,
        state: row.state,
        launch_time: row.launched_at_ms.map(rfc3339),
        state_change_time: rfc3339(row.state_changed_at_ms),
        timeout_at: row.timeout_at_ms.map(|ms| ms.div_euclid(1000)),
        created_at: rfc3339(row.created_at_ms),
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

/// As the row keeps it: nothing secret is in there.
fn policy(shown: Option<&str>) -> NetworkPolicy {
    let Some(shown) = shown else { return NetworkPolicy::allow_all() };
    serde_json::from_str(shown).unwrap_or_else(|error| {
        tracing::error!(%error, "a stored network policy cannot be shown");
        NetworkPolicy { mode: NetworkPolicyMode::Custom, ..NetworkPolicy::allow_all() }
    })
}

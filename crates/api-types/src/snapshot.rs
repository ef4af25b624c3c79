//! A snapshot as the API shows it, and the requests to create, restore and list snapshots.

use crate::network::NetworkPolicy;
use crate::sandbox::SortOrder;
use leapbox_egress_policy::Policy;
use leapbox_ids::{SnapshotId, TemplateId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Characters of the longest name of a snapshot, and of the longest text to look for in names.
pub const SNAPSHOT_NAME_MAX: usize = 64;

/// A snapshot: the answer of create, and an entry of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotDetails {
    /// The id, by which the snapshot is deleted.
    #[schema(value_type = String, example = "snap-abcdefghijklmnopqrst")]
    pub id: SnapshotId,
    /// The name, unique in the organisation, by which the snapshot is restored.
    #[schema(example = "workspace-warm")]
    pub name: String,
    /// The template from which its sandbox was created.
    #[schema(value_type = String, example = "tpl-abcdefghijklmnopqrst")]
    pub template_id: TemplateId,
    /// Number of virtual CPUs of a sandbox that is restored from it.
    pub vcpu: u64,
    /// Size of the memory in MiB.
    pub memory: u64,
    /// Size of the writable disk in MiB.
    pub disk: u64,
    /// The destinations that a restored sandbox may reach, unless the restore brings a policy of its own.
    pub network_policy: Option<NetworkPolicy>,
    /// Time of the create: RFC 3339, UTC.
    pub created_at: String,
}

/// A page of the list of snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotList {
    /// The snapshots of this page.
    pub items: Vec<SnapshotDetails>,
    /// Number of snapshots that match, over all pages.
    pub total_items: u64,
}

/// The field by which the list is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotSort {
    CreatedAt,
    /// By the template's id.
    Template,
}

/// A checked request for a page of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotListQuery {
    /// Lists only snapshots whose name contains this text, whatever its case. It is not empty.
    pub name: Option<String>,
    pub sort: SnapshotSort,
    pub order: SortOrder,
    /// The page's number, which counts from 1.
    pub page: u64,
    /// Entries on a page: 1 to 100.
    pub page_size: u64,
}

/// Body of create. It may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreateSnapshot {
    /// The name, unique in the organisation; the snapshot's id when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64, example = "workspace-warm")]
    pub name: Option<String>,
    /// Whether the sandbox is deleted once the snapshot is stored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kill_sandbox_after: bool,
}

/// A create, checked and with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Trimmed; the snapshot's id when absent. Whether it is in use is not checked yet.
    pub name: Option<String>,
    pub kill_sandbox_after: bool,
}

/// Body of restore, which creates a sandbox from a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreSnapshotRequest {
    /// Name of the snapshot.
    #[schema(min_length = 1, max_length = 64, example = "workspace-warm")]
    pub snapshot_name: String,
    /// Seconds after which the new sandbox is deleted or paused; 300 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 28800)]
    pub timeout: Option<u64>,
    /// Whether the new sandbox is paused at its timeout instead of deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_pause: bool,
    /// The destinations that the new sandbox may reach; those of the snapshot's policy when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicy>,
}

/// A restore, checked and with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreSnapshot {
    pub snapshot_name: String,
    // Neither is stored with a snapshot: the contract has defaults for a restore.
    pub timeout_s: u64,
    pub auto_pause: bool,
    /// Replaces the snapshot's own policy as a whole; `None` keeps it.
    pub network_policy: Option<Policy>,
}

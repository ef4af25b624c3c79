//! A snapshot as the API shows it, and what may be asked of it.

use crate::network::NetworkPolicy;
use crate::sandbox::SortOrder;
use leapbox_egress_policy::Policy;
use leapbox_ids::{SnapshotId, TemplateId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest name of a snapshot, and longest text to look for in names, in characters.
pub const SNAPSHOT_NAME_MAX: usize = 64;

/// Answer of create, and one line of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotDetails {
    /// Its id.
    #[schema(value_type = String, example = "snap-abcdefghijklmnopqrst")]
    pub id: SnapshotId,
    /// Its name, unique in the organisation.
    #[schema(example = "workspace-warm")]
    pub name: String,
    /// The template its sandbox was made from.
    #[schema(value_type = String, example = "tpl-abcdefghijklmnopqrst")]
    pub template_id: TemplateId,
    /// Virtual CPUs.
    pub vcpu: u64,
    /// Memory in MiB.
    pub memory: u64,
    /// Writable disk in MiB.
    pub disk: u64,
    /// What a sandbox restored from it may reach, unless the restore says otherwise.
    pub network_policy: Option<NetworkPolicy>,
    /// RFC 3339, UTC.
    pub created_at: String,
}

/// A page of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotList {
    /// This page's snapshots.
    pub items: Vec<SnapshotDetails>,
    /// How many match, over all pages.
    pub total_items: u64,
}

/// What a list can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotSort {
    /// When it was created.
    CreatedAt,
    /// The template's id.
    Template,
}

/// What a list asks for, already checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotListQuery {
    /// Only snapshots whose name contains this; capitals and small letters are the same. Not empty.
    pub name: Option<String>,
    /// Sort field.
    pub sort: SnapshotSort,
    /// Sort direction.
    pub order: SortOrder,
    /// From 1.
    pub page: u64,
    /// 1 to 100.
    pub page_size: u64,
}

/// Body of create, as a client sends it. It may be left out altogether.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreateSnapshot {
    /// Its name, unique in the organisation; one is made up when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64, example = "workspace-warm")]
    pub name: Option<String>,
    /// Delete the sandbox once the snapshot is stored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kill_sandbox_after: bool,
}

/// What a create asks for, already checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Its name, trimmed; one is made up when absent.
    pub name: Option<String>,
    /// Delete the sandbox once the snapshot is stored.
    pub kill_sandbox_after: bool,
}

/// Body of restore, as a client sends it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreSnapshotRequest {
    /// The snapshot's name.
    #[schema(min_length = 1, max_length = 64, example = "workspace-warm")]
    pub snapshot_name: String,
    /// Life time in seconds; 300 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 28800)]
    pub timeout: Option<u64>,
    /// Whether the timeout pauses the sandbox instead of deleting it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_pause: bool,
    /// What it may reach. The snapshot's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicy>,
}

/// What a restore asks for, already checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreSnapshot {
    /// The snapshot's name, trimmed.
    pub snapshot_name: String,
    /// Life time in seconds.
    pub timeout_s: u64,
    /// Whether the timeout pauses the sandbox instead of deleting it.
    pub auto_pause: bool,
    /// What it may reach; the snapshot's own when absent.
    pub network_policy: Option<Policy>,
}

//! A sandbox as the API shows it, and the bounds of what may be asked for.

use crate::network::NetworkPolicy;
use leapbox_egress_policy::Policy;
use leapbox_ids::{SandboxId, TemplateId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// The template a sandbox is made from when none is named.
pub const DEFAULT_TEMPLATE: &str = "system/debian:bookworm";
/// Longest template name, in characters.
pub const TEMPLATE_NAME_MAX: usize = 64;
/// Virtual CPUs a sandbox may have.
pub const VCPU_RANGE: std::ops::RangeInclusive<u64> = 1..=8;
/// Virtual CPUs when none are asked for.
pub const DEFAULT_VCPU: u64 = 1;
/// Memory a sandbox may have, in MiB; it must be even besides.
pub const MEMORY_MIB_RANGE: std::ops::RangeInclusive<u64> = 512..=8192;
/// Memory when none is asked for, in MiB.
pub const DEFAULT_MEMORY_MIB: u64 = 1024;
/// How long a sandbox may live, in seconds.
pub const TIMEOUT_S_RANGE: std::ops::RangeInclusive<u64> = 1..=28800;
/// How long a sandbox lives when nothing is asked for, in seconds.
pub const DEFAULT_TIMEOUT_S: u64 = 300;
/// Every sandbox's writable disk, in MiB.
pub const DISK_MIB: u64 = 10 * 1024;

/// Where a sandbox stands. The published schema's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SandboxState {
    /// Being made; not usable yet.
    Starting,
    /// Usable.
    Running,
    /// A snapshot of it is being taken.
    Snapshotting,
    /// Its memory is stored and its VM gone; a request wakes it.
    Paused,
    /// Being woken.
    Unpausing,
    /// Being stopped.
    Stopping,
    /// Its disk is kept, its memory is not.
    Stopped,
    /// Being deleted.
    Deleting,
    /// Gone: deleted, timed out, or failed (then the reason is told).
    Deleted,
}

impl SandboxState {
    /// Every state, in the order of a life.
    pub const ALL: [SandboxState; 9] = [
        SandboxState::Starting,
        SandboxState::Running,
        SandboxState::Snapshotting,
        SandboxState::Paused,
        SandboxState::Unpausing,
        SandboxState::Stopping,
        SandboxState::Stopped,
        SandboxState::Deleting,
        SandboxState::Deleted,
    ];

    /// The word on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            SandboxState::Starting => "starting",
            SandboxState::Running => "running",
            SandboxState::Snapshotting => "snapshotting",
            SandboxState::Paused => "paused",
            SandboxState::Unpausing => "unpausing",
            SandboxState::Stopping => "stopping",
            SandboxState::Stopped => "stopped",
            SandboxState::Deleting => "deleting",
            SandboxState::Deleted => "deleted",
        }
    }
}

impl fmt::Display for SandboxState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SandboxState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(UnknownState)
    }
}

/// A word that names no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownState;

/// Answer of create and of get: one sandbox in full.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SandboxDetails {
    /// Its id.
    #[schema(value_type = String, example = "sbx-abcdefghijklmnopqrst")]
    pub id: SandboxId,
    /// The template it was made from.
    #[schema(value_type = String, example = "tpl-abcdefghijklmnopqrst")]
    pub template_id: TemplateId,
    /// Virtual CPUs.
    pub vcpu: u64,
    /// Memory in MiB.
    pub memory: u64,
    /// Writable disk in MiB.
    pub disk: u64,
    /// Life time in seconds.
    pub timeout: u64,
    /// Where it stands.
    pub state: SandboxState,
    /// Why it stands there, when that is not what its owner asked for (a dead VMM, say).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// Whether the timeout pauses it instead of deleting it.
    pub auto_pause: bool,
    /// What it may reach.
    pub network_policy: Option<NetworkPolicy>,
    /// RFC 3339, UTC.
    pub created_at: String,
}

/// One line of the list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SandboxListItem {
    /// Its id.
    #[schema(value_type = String, example = "sbx-abcdefghijklmnopqrst")]
    pub id: SandboxId,
    /// The template it was made from.
    #[schema(value_type = String, example = "tpl-abcdefghijklmnopqrst")]
    pub template_id: TemplateId,
    /// The runner that has it.
    pub pod_id: String,
    /// Where it stands.
    pub state: SandboxState,
    /// When its VM was launched; RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch_time: Option<String>,
    /// When its state last changed; RFC 3339, UTC.
    pub state_change_time: String,
    /// When it times out: Unix time in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_at: Option<i64>,
    /// RFC 3339, UTC.
    pub created_at: String,
}

/// A page of the list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SandboxList {
    /// This page's sandboxes.
    pub items: Vec<SandboxListItem>,
    /// How many match, over all pages.
    pub total_items: u64,
}

/// What a list can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxSort {
    /// When it was created.
    CreatedAt,
    /// The state's word.
    State,
}

/// Which way a list is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortOrder {
    /// Smallest first.
    Ascending,
    /// Largest first.
    Descending,
}

/// What a list asks for, already checked.
#[derive(Debug, Clone)]
pub struct SandboxListQuery {
    /// Only sandboxes in this state.
    pub state: Option<SandboxState>,
    /// Sort field.
    pub sort: SandboxSort,
    /// Sort direction.
    pub order: SortOrder,
    /// From 1.
    pub page: u64,
    /// 1 to 100.
    pub page_size: u64,
}

/// Body of create, as a client sends it. The server reads the JSON field by field, to name every bad one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreateSandbox {
    /// The template's name; `system/debian:bookworm` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 64)]
    pub template_name: Option<String>,
    /// Virtual CPUs; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 8)]
    pub vcpu: Option<u64>,
    /// Memory in MiB, even; 1024 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 512, maximum = 8192, multiple_of = 2)]
    pub memory: Option<u64>,
    /// Life time in seconds; 300 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 28800)]
    pub timeout: Option<u64>,
    /// Environment variables of every process in it, 64 KiB in all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
    /// Whether the timeout pauses it instead of deleting it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_pause: bool,
    /// What it may reach; every public address when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicy>,
}

/// What a create asks for, already checked.
#[derive(Debug, Clone)]
pub struct NewSandbox {
    /// The template's name, trimmed.
    pub template_name: String,
    /// Virtual CPUs.
    pub vcpu: u64,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Life time in seconds.
    pub timeout_s: u64,
    /// Whether the timeout pauses it instead of deleting it.
    pub auto_pause: bool,
    /// Environment of every process in it, sorted by name.
    pub env_vars: Vec<(String, String)>,
    /// What it may reach.
    pub network_policy: Policy,
}

//! A sandbox as the API shows it, its states, and the bounds of a create.

use crate::network::NetworkPolicy;
use leapbox_egress_policy::Policy;
use leapbox_ids::{SandboxId, TemplateId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// The template of a sandbox that is created without naming one.
pub const DEFAULT_TEMPLATE: &str = "system/debian:bookworm";
/// Characters of the longest template name.
pub const TEMPLATE_NAME_MAX: usize = 64;
/// Number of virtual CPUs that a sandbox may have.
// The bounds from here on are the contract's.
pub const VCPU_RANGE: std::ops::RangeInclusive<u64> = 1..=8;
/// Number of virtual CPUs of a sandbox that is created without a number.
pub const DEFAULT_VCPU: u64 = 1;
/// Memory that a sandbox may have, in MiB. It must also be even.
pub const MEMORY_MIB_RANGE: std::ops::RangeInclusive<u64> = 512..=8192;
/// Memory of a sandbox that is created without a size, in MiB.
pub const DEFAULT_MEMORY_MIB: u64 = 1024;
/// Timeout that a sandbox may be given, in seconds: 8 hours at most.
pub const TIMEOUT_S_RANGE: std::ops::RangeInclusive<u64> = 1..=28800;
/// Timeout of a sandbox that is created or restored without one, in seconds.
pub const DEFAULT_TIMEOUT_S: u64 = 300;
/// Size of every sandbox's writable disk, in MiB. It is sparse on the host.
pub const DISK_MIB: u64 = 10 * 1024;

/// The state of a sandbox.
// The published schema's words, which are also stored in the database: they can be added to and never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SandboxState {
    /// The sandbox is being created and cannot be used yet.
    Starting,
    /// The sandbox can be used.
    Running,
    /// Memory and disk are being stored, for a pause or a snapshot.
    Snapshotting,
    /// Memory and disk are stored, and there is no VM; the next request wakes the sandbox.
    Paused,
    /// The sandbox is being woken.
    Unpausing,
    /// The sandbox is being stopped.
    Stopping,
    /// The disk is stored, memory and processes are not; only a start runs the sandbox again.
    Stopped,
    /// The sandbox is being deleted.
    Deleting,
    /// The sandbox was deleted, has timed out, or has failed; `state_reason` says why it has failed.
    Deleted,
}

impl SandboxState {
    /// Every state, in the order in which a sandbox may go through them.
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
        // Through `as_str`, so that each word is written once and no state can be shown that cannot be read again.
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(UnknownState)
    }
}

/// The error for a word that names no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownState;

/// One sandbox in full: the answer of create, get, pause, stop, start and restore.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SandboxDetails {
    /// The id, which is also the first label of the sandbox's host name.
    #[schema(value_type = String, example = "sbx-abcdefghijklmnopqrst")]
    pub id: SandboxId,
    /// The template from which the sandbox was created.
    #[schema(value_type = String, example = "tpl-abcdefghijklmnopqrst")]
    pub template_id: TemplateId,
    /// Number of virtual CPUs.
    pub vcpu: u64,
    /// Size of the memory in MiB.
    pub memory: u64,
    /// Size of the writable disk in MiB.
    pub disk: u64,
    /// Seconds after which the sandbox is deleted or paused, counted from its create, wake or start.
    pub timeout: u64,
    /// The state of the sandbox.
    pub state: SandboxState,
    /// The reason for the state, if it is not what the sandbox's owner asked for: a VMM that died, for example.
    #[serde(skip_serializing_if = "Option::is_none")]
    // Not in the contract, and absent unless there is something to say, so that its clients see the answers that they
    // know.
    pub state_reason: Option<String>,
    /// Whether the sandbox is paused at its timeout instead of deleted.
    pub auto_pause: bool,
    /// The destinations that the sandbox may reach.
    pub network_policy: Option<NetworkPolicy>,
    /// Time of the create: RFC 3339, UTC.
    pub created_at: String,
}

/// One sandbox of the list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SandboxListItem {
    /// The id, which is also the first label of the sandbox's host name.
    #[schema(value_type = String, example = "sbx-abcdefghijklmnopqrst")]
    pub id: SandboxId,
    /// The template from which the sandbox was created.
    #[schema(value_type = String, example = "tpl-abcdefghijklmnopqrst")]
    pub template_id: TemplateId,
    /// The runner on which the sandbox is.
    // The contract's field. With one runner it is the same for all sandboxes, and it will tell several apart.
    pub pod_id: String,
    /// The state of the sandbox.
    pub state: SandboxState,
    /// Time of the last launch of its VM: RFC 3339, UTC. Absent before the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch_time: Option<String>,
    /// Time of the last change of its state: RFC 3339, UTC.
    pub state_change_time: String,
    /// Time of its timeout, as Unix time in seconds. Absent for a paused or stopped sandbox, which has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    // The contract has this one time in seconds and all others as text.
    pub timeout_at: Option<i64>,
    /// Time of the create: RFC 3339, UTC.
    pub created_at: String,
}

/// A page of the list of sandboxes.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SandboxList {
    /// The sandboxes of this page.
    pub items: Vec<SandboxListItem>,
    /// Number of sandboxes that match, over all pages.
    pub total_items: u64,
}

/// The field by which the list is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxSort {
    CreatedAt,
    /// By the state's word, alphabetically.
    State,
}

/// The direction in which a list is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortOrder {
    Ascending,
    Descending,
}

/// A checked request for a page of the list.
#[derive(Debug, Clone)]
pub struct SandboxListQuery {
    /// Lists only sandboxes in this state.
    pub state: Option<SandboxState>,
    pub sort: SandboxSort,
    pub order: SortOrder,
    /// The page's number, which counts from 1.
    pub page: u64,
    /// Entries on a page: 1 to 100.
    pub page_size: u64,
}

/// Body of create. All fields may be left out.
// For the schema and for tests: the server reads a request field by field, so that every bad one can be named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreateSandbox {
    /// Name of the template; `system/debian:bookworm` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 64)]
    pub template_name: Option<String>,
    /// Number of virtual CPUs; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 8)]
    pub vcpu: Option<u64>,
    /// Size of the memory in MiB, an even number; 1024 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 512, maximum = 8192, multiple_of = 2)]
    pub memory: Option<u64>,
    /// Seconds after which the sandbox is deleted or paused; 300 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 28800)]
    pub timeout: Option<u64>,
    /// Environment variables of every command in the sandbox, 64 KiB in all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
    /// Whether the sandbox is paused at its timeout instead of deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_pause: bool,
    /// The destinations that the sandbox may reach; every public address when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicy>,
}

/// A create, checked and with its defaults filled in.
#[derive(Debug, Clone)]
pub struct NewSandbox {
    /// Trimmed. Whether there is such a template is not checked yet.
    pub template_name: String,
    pub vcpu: u64,
    pub memory_mib: u64,
    pub timeout_s: u64,
    /// Whether the sandbox is paused at its timeout instead of deleted.
    pub auto_pause: bool,
    /// Names and values, sorted by name.
    pub env_vars: Vec<(String, String)>,
    pub network_policy: Policy,
}

//! A sandbox's row: its columns, and how they are written.

use crate::DbError;
use crate::row::{Columns, bigint};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_ids::{OrganisationId, SandboxId, TemplateId};
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};
use std::fmt;

/// Every column, in the order in which [`SandboxRow::bind`] binds them.
pub(super) const COLUMNS: &str = "id, organisation, template, pod_id, vcpu, memory_mib, disk_mib, timeout_s, auto_pause, state, state_reason, \
     created_at_ms, launched_at_ms, state_changed_at_ms, timeout_at_ms, machine, checkpoint, base, image, environment, \
     network_policy, network_secrets, egress_ca";

pub(super) const INSERT: &str =
    "INSERT INTO sandbox (id, organisation, template, pod_id, vcpu, memory_mib, disk_mib, timeout_s, auto_pause, state,
        state_reason, created_at_ms, launched_at_ms, state_changed_at_ms, timeout_at_ms, machine, checkpoint, base,
        image, environment, network_policy, network_secrets, egress_ca)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)";

pub(super) const UPDATE: &str =
    "UPDATE sandbox SET organisation = $2, template = $3, pod_id = $4, vcpu = $5, memory_mib = $6,
        disk_mib = $7, timeout_s = $8, auto_pause = $9, state = $10, state_reason = $11, created_at_ms = $12,
        launched_at_ms = $13, state_changed_at_ms = $14, timeout_at_ms = $15, machine = $16, checkpoint = $17,
        base = $18, image = $19, environment = $20,
        network_policy = $21, network_secrets = $22, egress_ca = $23
     WHERE id = $1";

/// One sandbox. Times are Unix ms.
#[derive(Clone, PartialEq, Eq)]
pub struct SandboxRow {
    /// Its id.
    pub id: SandboxId,
    /// Whose it is.
    pub organisation: OrganisationId,
    /// What it was made from.
    pub template: TemplateId,
    /// The runner that has it.
    pub pod_id: String,
    /// Virtual CPUs.
    pub vcpu: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Writable disk in MiB.
    pub disk_mib: u64,
    /// Life time in seconds.
    pub timeout_s: u64,
    /// Whether the timeout pauses it instead of deleting it.
    pub auto_pause: bool,
    /// Where it stands.
    pub state: SandboxState,
    /// Why it stands there, when nobody asked for it.
    pub state_reason: Option<String>,
    /// When it was asked for.
    pub created_at_ms: i64,
    /// When its VM was launched.
    pub launched_at_ms: Option<i64>,
    /// When `state` last changed.
    pub state_changed_at_ms: i64,
    /// When it times out.
    pub timeout_at_ms: Option<i64>,
    /// The lifecycle's record of the living VM, as JSON.
    pub machine: Option<String>,
    /// The archive with its stored state, while it has no VM.
    pub checkpoint: Option<String>,
    /// The warm snapshot that its living VM, or its checkpoint, differs from: an archive's id.
    pub base: Option<String>,
    /// Digest of the guest image under `base`, without a name for the hash before it.
    pub image: Option<String>,
    /// Its environment variables, sealed with the server's key. Not in the debug output.
    pub environment: Option<String>,
    /// What it may reach, as the API shows it (JSON); `None` is every public address.
    pub network_policy: Option<String>,
    /// The whole policy, sealed, if it has secrets. Not in the debug output.
    pub network_secrets: Option<String>,
    /// Certificate and key of its own authority, sealed, if its policy has transforms. Not in the debug output.
    pub egress_ca: Option<String>,
}

impl fmt::Debug for SandboxRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxRow")
            .field("id", &self.id)
            .field("organisation", &self.organisation)
            .field("template", &self.template)
            .field("pod_id", &self.pod_id)
            .field("vcpu", &self.vcpu)
            .field("memory_mib", &self.memory_mib)
            .field("disk_mib", &self.disk_mib)
            .field("timeout_s", &self.timeout_s)
            .field("auto_pause", &self.auto_pause)
            .field("state", &self.state)
            .field("state_reason", &self.state_reason)
            .field("created_at_ms", &self.created_at_ms)
            .field("launched_at_ms", &self.launched_at_ms)
            .field("state_changed_at_ms", &self.state_changed_at_ms)
            .field("timeout_at_ms", &self.timeout_at_ms)
            .field("machine", &self.machine)
            .field("checkpoint", &self.checkpoint)
            .field("base", &self.base)
            .field("image", &self.image)
            .field("network_policy", &self.network_policy)
            .finish_non_exhaustive()
    }
}

impl SandboxRow {
    pub(super) fn read(row: &SqliteRow) -> Result<Self, DbError> {
        let columns = Columns::new("sandbox", row);
        Ok(Self {
            id: columns.parsed("id")?,
            organisation: columns.parsed("organisation")?,
            template: columns.parsed("template")?,
            pod_id: columns.get("pod_id")?,
            vcpu: columns.number("vcpu")?,
            memory_mib: columns.number("memory_mib")?,
            disk_mib: columns.number("disk_mib")?,
            timeout_s: columns.number("timeout_s")?,
            auto_pause: columns.get("auto_pause")?,
            state: columns.parsed("state")?,
            state_reason: columns.get("state_reason")?,
            created_at_ms: columns.get("created_at_ms")?,
            launched_at_ms: columns.get("launched_at_ms")?,
            state_changed_at_ms: columns.get("state_changed_at_ms")?,
            timeout_at_ms: columns.get("timeout_at_ms")?,
            machine: columns.get("machine")?,
            checkpoint: columns.get("checkpoint")?,
            base: columns.get("base")?,
            image: columns.get("image")?,
            environment: columns.get("environment")?,
            network_policy: columns.get("network_policy")?,
            network_secrets: columns.get("network_secrets")?,
            egress_ca: columns.get("egress_ca")?,
        })
    }

    pub(super) fn bind<'q>(&'q self, sql: &'q str) -> Query<'q, Sqlite, SqliteArguments<'q>> {
        sqlx::query(sql)
            .bind(self.id.as_str())
            .bind(self.organisation.as_str())
            .bind(self.template.as_str())
            .bind(&self.pod_id)
            .bind(i64::from(self.vcpu))
            .bind(i64::from(self.memory_mib))
            .bind(bigint(self.disk_mib))
            .bind(bigint(self.timeout_s))
            .bind(self.auto_pause)
            .bind(self.state.as_str())
            .bind(&self.state_reason)
            .bind(self.created_at_ms)
            .bind(self.launched_at_ms)
            .bind(self.state_changed_at_ms)
            .bind(self.timeout_at_ms)
            .bind(&self.machine)
            .bind(&self.checkpoint)
            .bind(&self.base)
            .bind(&self.image)
            .bind(&self.environment)
            .bind(&self.network_policy)
            .bind(&self.network_secrets)
            .bind(&self.egress_ca)
    }
}

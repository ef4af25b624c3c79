//! A sandbox's row, and the way between it and [`Sandbox`]. A row that is no sandbox (a paused one without a checkpoint)
//! is an error when it is read: nothing is done about a sandbox that is not understood.

use super::status::{Live, Origin, Sandbox, Sealed, Spec, Status, Stored, StoredDisk, StoredMemory, VmRecord};
use crate::DbError;
use crate::row::{Column, row};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_ids::{BaseId, CheckpointId, ImageDigest, OrganisationId, SandboxId, TemplateId};
use leapbox_vmm::Shape;
use std::sync::Arc;

impl Column for Sealed {
    type Stored = String;

    fn from_stored(stored: &String) -> Option<Self> {
        Some(Self(stored.clone()))
    }

    fn to_stored(&self) -> String {
        self.0.clone()
    }
}

/// As JSON.
impl Column for VmRecord {
    type Stored = String;

    fn from_stored(stored: &String) -> Option<Self> {
        serde_json::from_str(stored).ok()
    }

    fn to_stored(&self) -> String {
        serde_json::to_string(self).expect("a structure of texts and numbers is JSON")
    }
}

row! {
    /// One row of the table.
    pub(super) struct SandboxRow of "sandbox" {
        id: SandboxId,
        organisation: OrganisationId,
        template: TemplateId,
        pod_id: String,
        vcpu: u8,
        memory_mib: u32,
        disk_mib: u64,
        timeout_s: u64,
        auto_pause: bool,
        state: SandboxState,
        state_reason: Option<String>,
        created_at_ms: i64,
        launched_at_ms: Option<i64>,
        state_changed_at_ms: i64,
        timeout_at_ms: Option<i64>,
        machine: Option<VmRecord>,
        checkpoint: Option<CheckpointId>,
        base: Option<BaseId>,
        image: Option<ImageDigest>,
        environment: Option<Sealed>,
        network_policy: Option<String>,
        network_secrets: Option<Sealed>,
        egress_ca: Option<Sealed>,
    }
}

/// The columns that depend on the state.
#[derive(Default)]
struct StatusColumns {
    timeout_at_ms: Option<i64>,
    machine: Option<VmRecord>,
    checkpoint: Option<CheckpointId>,
    base: Option<BaseId>,
    image: Option<ImageDigest>,
}

impl From<&Status> for StatusColumns {
    fn from(status: &Status) -> Self {
        match status {
            Status::Creating(None) | Status::Deleting(None) | Status::Deleted => Self::default(),
            Status::Creating(Some(origin)) => origin.into(),
            Status::Running(live) | Status::Snapshotting(live) | Status::Stopping(live) => Self {
                timeout_at_ms: Some(live.timeout_at_ms),
                machine: Some(live.vm.clone()),
                ..Self::from(&live.origin)
            },
            Status::Paused(stored) | Status::Unpausing(stored) => stored.into(),
            Status::Starting(stored) | Status::Stopped(stored) => stored.into(),
            Status::Deleting(Some(Stored::Memory(stored))) => stored.into(),
            Status::Deleting(Some(Stored::Disk(stored))) => stored.into(),
        }
    }
}

impl From<&Origin> for StatusColumns {
    fn from(origin: &Origin) -> Self {
        Self { base: Some(origin.base.clone()), image: Some(origin.image.clone()), ..Self::default() }
    }
}

impl From<&StoredMemory> for StatusColumns {
    fn from(stored: &StoredMemory) -> Self {
        Self { checkpoint: Some(stored.checkpoint.clone()), ..Self::from(&stored.origin) }
    }
}

impl From<&StoredDisk> for StatusColumns {
    fn from(stored: &StoredDisk) -> Self {
        Self { checkpoint: Some(stored.checkpoint.clone()), image: Some(stored.image.clone()), ..Self::default() }
    }
}

impl From<&Sandbox> for SandboxRow {
    fn from(sandbox: &Sandbox) -> Self {
        let (spec, columns) = (&sandbox.spec, StatusColumns::from(&sandbox.status));
        // What is secret ends with the sandbox.
        let kept = |sealed: &Option<Sealed>| sealed.clone().filter(|_| sandbox.status != Status::Deleted);
        Self {
            id: spec.id.clone(),
            organisation: spec.organisation.clone(),
            template: spec.template.clone(),
            pod_id: spec.pod_id.clone(),
            vcpu: spec.shape.vcpus,
            memory_mib: spec.shape.memory_mib,
            disk_mib: spec.disk_mib,
            timeout_s: spec.timeout_s,
            auto_pause: spec.auto_pause,
            state: sandbox.state(),
            state_reason: sandbox.reason.clone(),
            created_at_ms: spec.created_at_ms,
            launched_at_ms: sandbox.launched_at_ms,
            state_changed_at_ms: sandbox.since_ms,
            timeout_at_ms: columns.timeout_at_ms,
            machine: columns.machine,
            checkpoint: columns.checkpoint,
            base: columns.base,
            image: columns.image,
            environment: kept(&spec.environment),
            network_policy: spec.network_policy.clone(),
            network_secrets: kept(&spec.network_secrets),
            egress_ca: kept(&spec.egress_ca),
        }
    }
}

impl TryFrom<SandboxRow> for Sandbox {
    type Error = DbError;

    fn try_from(mut row: SandboxRow) -> Result<Self, DbError> {
        let status = row.take_status()?;
        let spec = Spec {
            id: row.id,
            organisation: row.organisation,
            template: row.template,
            pod_id: row.pod_id,
            shape: Shape { vcpus: row.vcpu, memory_mib: row.memory_mib },
            disk_mib: row.disk_mib,
            timeout_s: row.timeout_s,
            auto_pause: row.auto_pause,
            created_at_ms: row.created_at_ms,
            environment: row.environment,
            network_policy: row.network_policy,
            network_secrets: row.network_secrets,
            egress_ca: row.egress_ca,
        };
        Ok(Self {
            spec: Arc::new(spec),
            status,
            since_ms: row.state_changed_at_ms,
            launched_at_ms: row.launched_at_ms,
            reason: row.state_reason,
        })
    }
}

impl SandboxRow {
    fn take_status(&mut self) -> Result<Status, DbError> {
        Ok(match self.state {
            SandboxState::Starting => match self.checkpoint {
                Some(_) => Status::Starting(self.take_disk()?),
                None => Status::Creating(self.origin()),
            },
            SandboxState::Running => Status::Running(self.take_live()?),
            SandboxState::Snapshotting => Status::Snapshotting(self.take_live()?),
            SandboxState::Stopping => Status::Stopping(self.take_live()?),
            SandboxState::Paused => Status::Paused(self.take_memory()?),
            SandboxState::Unpausing => Status::Unpausing(self.take_memory()?),
            SandboxState::Stopped => Status::Stopped(self.take_disk()?),
            SandboxState::Deleting => Status::Deleting(self.take_stored()?),
            SandboxState::Deleted => Status::Deleted,
        })
    }

    fn take_live(&mut self) -> Result<Live, DbError> {
        let vm = self.machine.take().ok_or_else(|| self.lacks("machine"))?;
        let origin = self.origin().ok_or_else(|| self.lacks("base or image"))?;
        let timeout_at_ms = self.timeout_at_ms.ok_or_else(|| self.lacks("timeout_at_ms"))?;
        Ok(Live { vm, origin, timeout_at_ms })
    }

    fn take_memory(&mut self) -> Result<StoredMemory, DbError> {
        let checkpoint = self.checkpoint.take().ok_or_else(|| self.lacks("checkpoint"))?;
        let origin = self.origin().ok_or_else(|| self.lacks("base or image"))?;
        Ok(StoredMemory { checkpoint, origin })
    }

    /// Earlier servers kept the base of a stopped sandbox's last VM in its row, too.
    fn take_disk(&mut self) -> Result<StoredDisk, DbError> {
        let checkpoint = self.checkpoint.take().ok_or_else(|| self.lacks("checkpoint"))?;
        let image = self.image.clone().ok_or_else(|| self.lacks("image"))?;
        Ok(StoredDisk { checkpoint, image })
    }

    fn take_stored(&mut self) -> Result<Option<Stored>, DbError> {
        match (&self.checkpoint, &self.base) {
            (None, _) => Ok(None),
            (Some(_), Some(_)) => self.take_memory().map(|stored| Some(Stored::Memory(stored))),
            (Some(_), None) => self.take_disk().map(|stored| Some(Stored::Disk(stored))),
        }
    }

    fn origin(&self) -> Option<Origin> {
        Some(Origin { base: self.base.clone()?, image: self.image.clone()? })
    }

    fn lacks(&self, column: &'static str) -> DbError {
        DbError::Impossible { id: self.id.clone(), state: self.state, column }
    }
}

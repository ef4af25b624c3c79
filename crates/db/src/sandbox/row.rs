//! The conversion between a sandbox's row and [`Sandbox`], in both directions. A row that lacks what its state needs (a
//! paused sandbox without a checkpoint) is an error when it is read, before anything can be done with the sandbox.

use super::status::{Live, Origin, Sandbox, Sealed, Spec, Status, Stored, StoredDisk, StoredMemory, VmRecord};
use crate::DbError;
use crate::row::{Column, Row, Statement, row};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_ids::{BaseId, CheckpointId, ImageDigest, SandboxId};
use sqlx::sqlite::SqliteRow;
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

/// Stored as JSON: only this program reads it, and the VMM drivers decide what is in it.
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
    /// The columns that depend on the state. [`Spec`] has the others.
    struct StateColumns of "sandbox" {
        state: SandboxState,
        state_reason: Option<String>,
        launched_at_ms: Option<i64>,
        state_changed_at_ms: i64,
        timeout_at_ms: Option<i64>,
        timeout_at_boot_ms: Option<i64>,
        machine: Option<VmRecord>,
        checkpoint: Option<CheckpointId>,
        base: Option<BaseId>,
        image: Option<ImageDigest>,
    }
}

impl Row for Sandbox {
    const TABLE: &'static str = Spec::TABLE;

    fn columns() -> Vec<&'static str> {
        [Spec::columns(), StateColumns::columns()].concat()
    }

    fn read(row: &SqliteRow) -> Result<Self, DbError> {
        let (spec, columns) = (Spec::read(row)?, StateColumns::read(row)?);
        let (since_ms, launched_at_ms) = (columns.state_changed_at_ms, columns.launched_at_ms);
        let reason = columns.state_reason.clone();
        let status = columns.status(&spec.id)?;
        Ok(Self { spec: Arc::new(spec), status, since_ms, launched_at_ms, reason })
    }

    fn bind<'q>(&self, statement: Statement<'q>) -> Statement<'q> {
        let statement = match self.status {
            // The row of a failed sandbox is kept for a day, but nobody needs its secrets any more.
            Status::Deleted => {
                let spec = (*self.spec).clone();
                Spec { environment: None, network_secrets: None, egress_ca: None, ..spec }.bind(statement)
            }
            _ => self.spec.bind(statement),
        };
        StateColumns::from(self).bind(statement)
    }
}

impl From<&Sandbox> for StateColumns {
    fn from(sandbox: &Sandbox) -> Self {
        let (live, stored, origin) = match &sandbox.status {
            Status::Creating(None) | Status::Deleting(None) | Status::Deleted => (None, None, None),
            Status::Creating(Some(origin)) => (None, None, Some(origin.clone())),
            Status::Running(live) | Status::Snapshotting(live) | Status::Stopping(live) => {
                (Some(live), None, Some(live.origin.clone()))
            }
            Status::Paused(stored) | Status::Unpausing(stored) => (None, Some(Stored::Memory(stored.clone())), None),
            Status::Booting(stored) | Status::Stopped(stored) => (None, Some(Stored::Disk(stored.clone())), None),
            Status::Deleting(Some(stored)) => (None, Some(stored.clone()), None),
        };
        // Both are kept in columns of their own, because the garbage collection asks for them with SQL.
        let of_origin = |origin: Origin| (Some(origin.base), Some(origin.image));
        let of_stored = |stored: &Stored| (stored.base().cloned(), Some(stored.image().clone()));
        let (base, image) = origin.map(of_origin).or(stored.as_ref().map(of_stored)).unwrap_or_default();
        Self {
            state: sandbox.state(),
            state_reason: sandbox.reason.clone(),
            launched_at_ms: sandbox.launched_at_ms,
            state_changed_at_ms: sandbox.since_ms,
            timeout_at_ms: live.map(|live| live.timeout_at_ms),
            timeout_at_boot_ms: live.and_then(|live| live.timeout_at_boot_ms),
            machine: live.map(|live| live.vm.clone()),
            checkpoint: stored.map(|stored| stored.checkpoint().clone()),
            base,
            image,
        }
    }
}

impl StateColumns {
    fn status(self, id: &SandboxId) -> Result<Status, DbError> {
        let state = self.state;
        self.into_status().map_err(|MissingColumn(column)| DbError::Impossible { id: id.clone(), state, column })
    }

    fn into_status(self) -> Result<Status, MissingColumn> {
        // Columns that the state does not need are ignored: earlier versions of Leapbox left the base of a stopped
        // sandbox's last VM in its row.
        Ok(match self.state {
            // The API has one state `starting` for a create and for the start of a stopped sandbox. Only the latter has
            // a checkpoint, and must not be lost if the server dies.
            SandboxState::Starting if self.checkpoint.is_none() => Status::Creating(self.origin()),
            SandboxState::Starting => Status::Booting(self.disk()?),
            SandboxState::Running => Status::Running(self.live()?),
            SandboxState::Snapshotting => Status::Snapshotting(self.live()?),
            SandboxState::Stopping => Status::Stopping(self.live()?),
            SandboxState::Paused => Status::Paused(self.memory()?),
            SandboxState::Unpausing => Status::Unpausing(self.memory()?),
            SandboxState::Stopped => Status::Stopped(self.disk()?),
            SandboxState::Deleting if self.checkpoint.is_none() => Status::Deleting(None),
            SandboxState::Deleting if self.base.is_none() => Status::Deleting(Some(Stored::Disk(self.disk()?))),
            SandboxState::Deleting => Status::Deleting(Some(Stored::Memory(self.memory()?))),
            SandboxState::Deleted => Status::Deleted,
        })
    }

    fn live(self) -> Result<Live, MissingColumn> {
        let origin = self.origin().ok_or(MissingColumn("base or image"))?;
        let timeout_at_ms = self.timeout_at_ms.ok_or(MissingColumn("timeout_at_ms"))?;
        let vm = self.machine.ok_or(MissingColumn("machine"))?;
        Ok(Live { vm, origin, timeout_at_ms, timeout_at_boot_ms: self.timeout_at_boot_ms })
    }

    fn memory(self) -> Result<StoredMemory, MissingColumn> {
        let origin = self.origin().ok_or(MissingColumn("base or image"))?;
        Ok(StoredMemory { checkpoint: self.checkpoint.ok_or(MissingColumn("checkpoint"))?, origin })
    }

    fn disk(self) -> Result<StoredDisk, MissingColumn> {
        let checkpoint = self.checkpoint.ok_or(MissingColumn("checkpoint"))?;
        Ok(StoredDisk { checkpoint, image: self.image.ok_or(MissingColumn("image"))? })
    }

    fn origin(&self) -> Option<Origin> {
        Some(Origin { base: self.base.clone()?, image: self.image.clone()? })
    }
}

/// A column that is NULL although the state needs it.
struct MissingColumn(&'static str);

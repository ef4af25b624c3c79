//! Snapshots of a sandbox: taken of what runs, or named of what is stored.

use super::{Driver, Life};
use crate::clock::now_ms;
use crate::error::LifecycleError;
use crate::machines::Body;
use crate::names::Reserved;
use leapbox_api_types::sandbox::SandboxState;
use leapbox_api_types::snapshot::NewSnapshot;
use leapbox_db::{SandboxRow, SnapshotRow};
use leapbox_ids::{CheckpointId, SnapshotId};

impl Driver {
    /// Stores the whole sandbox under a name. Then it goes on; or, if it is to be killed, it does not even wake.
    pub(super) async fn snapshot(
        &mut self,
        machine: Box<dyn Body>,
        new: NewSnapshot,
    ) -> (Result<SnapshotRow, LifecycleError>, Life) {
        let kill = new.kill_sandbox_after;
        match self.take_snapshot(machine.as_ref(), new).await {
            Ok(snapshot) if kill => (Ok(snapshot), self.delete(machine).await),
            Ok(snapshot) => {
                self.wake_up(machine.as_ref()).await;
                self.fall(self.row_in(SandboxState::Running)).await;
                (Ok(snapshot), Life::Running(machine))
            }
            Err(error) => (Err(error), Life::Running(machine)),
        }
    }

    /// Leaves the machine suspended; on failure it goes on.
    async fn take_snapshot(&mut self, machine: &dyn Body, new: NewSnapshot) -> Result<SnapshotRow, LifecycleError> {
        let (id, name) = self.reserve(new.name).await?;
        let _turn = self.storing_turn().await?;
        self.enter(self.row_in(SandboxState::Snapshotting)).await?;
        let checkpoint = CheckpointId::generate();
        let _unnamed = self.store_whole(machine, &checkpoint).await?;
        let snapshot = snapshot_row(&self.row(), id, &name.name, checkpoint.as_str());
        if let Err(error) = self.inner.db.snapshot_insert(&snapshot).await {
            self.undo(machine, &checkpoint).await;
            return Err(error.into());
        }
        Ok(snapshot)
    }

    /// A snapshot of a sandbox that is paused: another name for what is stored.
    pub(super) async fn snapshot_of_stored(&mut self, new: NewSnapshot) -> Result<SnapshotRow, LifecycleError> {
        let row = self.row();
        let checkpoint = row.checkpoint.clone().ok_or_else(|| LifecycleError::NotFound { id: row.id.clone() })?;
        let (id, name) = self.reserve(new.name).await?;
        let snapshot = snapshot_row(&row, id, &name.name, &checkpoint);
        self.inner.db.snapshot_insert(&snapshot).await?;
        Ok(snapshot)
    }

    /// The name of a new snapshot, nobody else's until the guard goes.
    async fn reserve(&self, name: Option<String>) -> Result<(SnapshotId, Reserved), LifecycleError> {
        let id = SnapshotId::generate();
        let name = name.unwrap_or_else(|| id.as_str().to_owned());
        let organisation = self.row().organisation;
        let taken = || LifecycleError::NameTaken { name: name.clone() };
        let reserved = self.inner.names.reserve(&organisation, &name).ok_or_else(taken)?;
        match self.inner.db.snapshot_by_name(&organisation, &name).await? {
            Some(_) => Err(taken()),
            None => Ok((id, reserved)),
        }
    }
}

fn snapshot_row(row: &SandboxRow, id: SnapshotId, name: &str, checkpoint: &str) -> SnapshotRow {
    SnapshotRow {
        id,
        organisation: row.organisation.clone(),
        name: name.to_owned(),
        template: row.template.clone(),
        vcpu: row.vcpu,
        memory_mib: row.memory_mib,
        disk_mib: row.disk_mib,
        checkpoint: checkpoint.to_owned(),
        base: row.base.clone().unwrap_or_default(),
        image: row.image.clone().unwrap_or_default(),
        environment: row.environment.clone(),
        network_policy: row.network_policy.clone(),
        network_secrets: row.network_secrets.clone(),
        created_at_ms: now_ms(),
    }
}

//! Snapshots of a sandbox: taken of what runs, or named of what is stored.

use super::{NextState, StateDriver};
use crate::clock::now_ms;
use crate::error::LifecycleError;
use crate::machines::SandboxVm;
use crate::names::Reserved;
use leapbox_api_types::snapshot::NewSnapshot;
use leapbox_db::{Live, SnapshotRow, Spec, Status, StoredMemory};
use leapbox_ids::{CheckpointId, SnapshotId};

impl StateDriver {
    /// Stores the whole sandbox under a name. Then it goes on; or, if it is to be killed, it does not even wake.
    pub(super) async fn snapshot(
        &mut self,
        live: Live,
        machine: Box<dyn SandboxVm>,
        new: NewSnapshot,
    ) -> (Result<SnapshotRow, LifecycleError>, NextState) {
        let kill = new.kill_sandbox_after;
        match self.take_snapshot(&live, machine.as_ref(), new).await {
            Ok(snapshot) if kill => (Ok(snapshot), self.delete(machine).await),
            Ok(snapshot) => {
                self.go_on(&live, machine.as_ref()).await;
                (Ok(snapshot), NextState::Running(live, machine))
            }
            Err(error) => (Err(error), NextState::Running(live, machine)),
        }
    }

    /// Leaves the machine suspended; on failure it goes on.
    async fn take_snapshot(
        &mut self,
        live: &Live,
        machine: &dyn SandboxVm,
        new: NewSnapshot,
    ) -> Result<SnapshotRow, LifecycleError> {
        let (id, name) = self.reserve(new.name).await?;
        let _turn = self.storing_turn().await?;
        self.commit(Status::Snapshotting(live.clone())).await?;
        let checkpoint = CheckpointId::generate();
        let _pin = self.store_whole(live, machine, &checkpoint).await?;
        let stored = StoredMemory { checkpoint, origin: live.origin.clone() };
        let snapshot = snapshot_row(&self.spec, id, &name.name, &stored);
        if let Err(error) = self.inner.db.snapshot_insert(&snapshot).await {
            self.undo(live, machine, &stored.checkpoint).await;
            return Err(error.into());
        }
        Ok(snapshot)
    }

    /// A snapshot of a sandbox that is paused: another name for what is stored.
    pub(super) async fn snapshot_of_stored(
        &mut self,
        stored: &StoredMemory,
        new: NewSnapshot,
    ) -> Result<SnapshotRow, LifecycleError> {
        let (id, name) = self.reserve(new.name).await?;
        let snapshot = snapshot_row(&self.spec, id, &name.name, stored);
        self.inner.db.snapshot_insert(&snapshot).await?;
        Ok(snapshot)
    }

    /// The name of a new snapshot, nobody else's until the guard goes.
    async fn reserve(&self, name: Option<String>) -> Result<(SnapshotId, Reserved), LifecycleError> {
        let id = SnapshotId::generate();
        let name = name.unwrap_or_else(|| id.as_str().to_owned());
        let organisation = &self.spec.organisation;
        let taken = || LifecycleError::NameTaken { name: name.clone() };
        let reserved = self.inner.names.reserve(organisation, &name).ok_or_else(taken)?;
        match self.inner.db.snapshot_by_name(organisation, &name).await? {
            Some(_) => Err(taken()),
            None => Ok((id, reserved)),
        }
    }
}

fn snapshot_row(spec: &Spec, id: SnapshotId, name: &str, stored: &StoredMemory) -> SnapshotRow {
    SnapshotRow {
        id,
        organisation: spec.organisation.clone(),
        name: name.to_owned(),
        template: spec.template.clone(),
        vcpu: spec.vcpu,
        memory_mib: spec.memory_mib,
        disk_mib: spec.disk_mib,
        checkpoint: stored.checkpoint.clone(),
        base: stored.origin.base.clone(),
        image: stored.origin.image.clone(),
        environment: spec.environment.clone(),
        network_policy: spec.network_policy.clone(),
        network_secrets: spec.network_secrets.clone(),
        created_at_ms: now_ms(),
    }
}

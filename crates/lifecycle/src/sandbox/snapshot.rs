//! Takes snapshots: of a running sandbox by storing it, of a paused one by naming its checkpoint once more.

use super::waiting::BrokenOff;
use super::{NextState, SandboxTask};
use crate::clock::now_ms;
use crate::error::LifecycleError;
use crate::machines::SandboxVm;
use crate::snapshot_names::Reserved;
use leapbox_api_types::snapshot::NewSnapshot;
use leapbox_db::{Live, SnapshotRow, Spec, Status, StoredMemory};
use leapbox_ids::{CheckpointId, SnapshotId};

impl SandboxTask {
    /// Stores the whole sandbox under a name. Then it runs on or, with `kill_sandbox_after`, is deleted.
    pub(super) async fn snapshot(
        &mut self,
        live: Live,
        machine: Box<dyn SandboxVm>,
        new: NewSnapshot,
    ) -> (Result<SnapshotRow, LifecycleError>, NextState) {
        let kill = new.kill_sandbox_after;
        match self.take_snapshot(&live, machine.as_ref(), new).await {
            // Still suspended: its workload does nothing after the snapshot that the snapshot would not have.
            Ok(snapshot) if kill => (Ok(snapshot), self.delete(machine).await),
            Ok(snapshot) => {
                self.return_to_running(&live, machine.as_ref()).await;
                (Ok(snapshot), NextState::Running(live, machine))
            }
            Err(reason) => {
                let (next, error) = self.break_off(live, machine, reason).await;
                (Err(error), next)
            }
        }
    }

    /// Stores the machine and adds the snapshot's row. The machine is suspended afterwards; on failure it runs.
    async fn take_snapshot(
        &mut self,
        live: &Live,
        machine: &dyn SandboxVm,
        new: NewSnapshot,
    ) -> Result<SnapshotRow, BrokenOff> {
        // The name first: a name that is taken is refused before the guest is suspended for nothing.
        let (id, name) = self.reserve(new.name).await?;
        let _permit = self.store_permit(machine).await?;
        self.commit(Status::Snapshotting(live.clone())).await?;
        let checkpoint = CheckpointId::generate();
        // Keeps the checkpoint from the garbage collection until the snapshot's row names it.
        let _pin = self.store_whole(live, machine, &checkpoint).await?;
        let stored = StoredMemory { checkpoint, origin: live.origin.clone() };
        let snapshot = snapshot_row(&self.spec, id, &name.name, &stored);
        if let Err(error) = self.shared.db.snapshot_insert(&snapshot).await {
            self.undo_store(live, machine, &stored.checkpoint).await;
            return Err(error.into());
        }
        Ok(snapshot)
    }

    /// Adds a snapshot of a paused sandbox. Nothing is stored: checkpoints never change, so the snapshot's row names
    /// the sandbox's own.
    pub(super) async fn snapshot_of_stored(
        &mut self,
        stored: &StoredMemory,
        new: NewSnapshot,
    ) -> Result<SnapshotRow, LifecycleError> {
        let (id, name) = self.reserve(new.name).await?;
        let snapshot = snapshot_row(&self.spec, id, &name.name, stored);
        self.shared.db.snapshot_insert(&snapshot).await?;
        Ok(snapshot)
    }

    /// Reserves the name of a new snapshot (its id, if none is given) until the guard is dropped.
    async fn reserve(&self, name: Option<String>) -> Result<(SnapshotId, Reserved), LifecycleError> {
        let id = SnapshotId::generate();
        let name = name.unwrap_or_else(|| id.as_str().to_owned());
        let organisation = &self.spec.organisation;
        let taken = || LifecycleError::NameTaken { name: name.clone() };
        let reserved = self.shared.names.reserve(organisation, &name).ok_or_else(taken)?;
        // After the reservation: a snapshot that was being taken under this name has its row before it frees the name.
        match self.shared.db.snapshot_by_name(organisation, &name).await? {
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

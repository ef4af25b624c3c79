//! One of this host's machines, as its sandbox's task sees it.

use super::capacity::Capacity;
use super::carry::Exports;
use super::checkpoint;
use super::vm::Vm;
use super::{Body, Identity, Origin, Unnamed};
use crate::error::{CheckpointError, LaunchError};
use crate::sealed::Egress;
use async_trait::async_trait;
use leapbox_db::SandboxRow;
use leapbox_guest_client::GuestClient;
use leapbox_ids::SandboxId;
use leapbox_storage::ArchiveStore;
use leapbox_vmm::ExitReason;
use std::sync::Arc;

/// One of this host's machines.
pub(super) struct HostBody {
    pub vm: Vm,
    pub archives: ArchiveStore,
    pub capacity: Capacity,
    pub exports: Arc<Exports>,
}

#[async_trait]
impl Body for HostBody {
    fn record(&self) -> Result<String, LaunchError> {
        serde_json::to_string(&self.vm.stored()).map_err(LaunchError::Record)
    }

    fn origin(&self) -> Origin {
        self.vm.origin()
    }

    fn guest(&self) -> GuestClient {
        self.vm.guest.clone()
    }

    async fn become_sandbox(&self, id: &SandboxId, who: Identity<'_>, egress: &Egress) -> Result<(), LaunchError> {
        let trust = egress.authority.as_ref().map(|authority| authority.certificate_pem().to_owned());
        if let Identity::New(_) = who {
            // Nothing of the workload's is in it yet: what closes the slot and what fills it need not wait for each other.
            let (admitted, told) = tokio::join!(self.vm.admit(id, egress), self.vm.become_sandbox(id, who, trust));
            return admitted.and(told);
        }
        self.vm.admit(id, egress).await?;
        self.vm.become_sandbox(id, who, trust).await
    }

    async fn go_on(&self, id: &SandboxId) -> Result<(), LaunchError> {
        self.vm.go_on(id).await
    }

    async fn suspend(&self) -> Result<(), CheckpointError> {
        self.vm.suspend().await
    }

    async fn resume(&self) -> Result<(), LaunchError> {
        self.vm.machine.resume().await.map_err(LaunchError::Vmm)
    }

    async fn store(&self, row: &SandboxRow, checkpoint: &str) -> Result<Unnamed, CheckpointError> {
        // Before it is written, that is: what is stored is no larger, and compresses.
        let _room = self.capacity.reserve_disk(self.vm.own_mib()).map_err(|_| CheckpointError::NoRoom(None))?;
        let stored = checkpoint::store(&self.archives, &self.vm, row, checkpoint).await?;
        let Origin { base, image } = self.vm.origin();
        self.exports.want([base, format!("image-{image}")].iter().filter_map(|id| id.parse().ok()));
        Ok(stored)
    }

    async fn shut_down(&self) {
        self.vm.shut_down().await;
    }

    async fn exited(&self) -> ExitReason {
        self.vm.machine.exited().await
    }

    async fn console_tail(&self) -> String {
        self.vm.machine.console_tail().await
    }

    async fn destroy(self: Box<Self>) {
        self.vm.destroy().await;
    }

    async fn end_but_disk(self: Box<Self>) {
        self.vm.end_but_disk().await;
    }

    fn leave(self: Box<Self>) {
        self.vm.leave();
    }
}

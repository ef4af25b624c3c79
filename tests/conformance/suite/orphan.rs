//! A machine whose server has died, and the next server.

use crate::rig::{Place, Rig, SMALL};
use crate::taken::Taken;
use crate::vm::Vm;
use leapbox_vmm::{Machine, MachineRecord, RestoreSpec};
use std::sync::Arc;
use tokio::runtime::Runtime;

/// A machine that nobody owns.
pub struct Orphan {
    pub record: MachineRecord,
    pub place: Place,
}

impl Rig {
    /// A small sandbox whose server has died: all that held it, tasks and connections, is gone, and it runs on.
    pub async fn orphan(&self) -> Orphan {
        let snapshot = self.world.warm(SMALL).await;
        let place = self.place(Some(&snapshot.disk)).await;
        let spec = self.restore_spec(&place, &snapshot);
        self.abandon(place, spec).await
    }

    /// The same of a machine that a snapshot was taken of.
    pub async fn orphan_of(&self, taken: &Taken) -> Orphan {
        let place = self.place(Some(&taken.disk)).await;
        let spec = RestoreSpec { changes: Some(taken.changes()), ..self.restore_spec(&place, &taken.base) };
        self.abandon(place, spec).await
    }

    async fn abandon(&self, place: Place, spec: RestoreSpec) -> Orphan {
        let (vmm, snapshot) = (Arc::clone(&self.world.vmm), Arc::clone(&spec.snapshot));
        let changed = spec.changes.is_some();
        let server = Runtime::new().expect("a runtime");
        let machine = server.spawn(async move { vmm.restore(spec).await });
        let machine: Arc<Machine> = machine.await.expect("no panic").expect("a clone starts").into();
        let Place { confinement, disk, guest, .. } = place.clone();
        let vm = Vm { machine, guest, snapshot: Some(snapshot), disk, confinement };
        if changed {
            vm.configure_restored().await
        } else {
            vm.configure().await
        }
        let record = vm.machine.record();
        drop(vm);
        server.shutdown_background();
        Orphan { record, place }
    }

    /// What the next server does with it.
    pub async fn adopt(&self, orphan: &Orphan) -> Vm {
        let next = self.world.restarted().await;
        let machine = next.adopt(orphan.record.clone()).await.expect("it is adopted");
        self.keep(&orphan.place, machine, Some(self.world.warm(SMALL).await))
    }
}

//! A machine whose server has died, and the next server.

use crate::rig::{Place, Rig, SMALL};
use crate::vm::Vm;
use leapbox_vmm::{Machine, MachineRecord};
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
        let (vmm, spec) = (Arc::clone(&self.world.vmm), self.restore_spec(&place, &snapshot));
        let server = Runtime::new().expect("a runtime");
        let machine = server.spawn(async move { vmm.restore(spec).await });
        let machine: Arc<dyn Machine> = machine.await.expect("no panic").expect("a clone starts").into();
        let Place { confinement, disk, guest, .. } = place.clone();
        let vm = Vm { machine, guest, snapshot: Some(snapshot), disk, confinement };
        vm.configure().await;
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

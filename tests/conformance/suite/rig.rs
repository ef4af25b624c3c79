//! What one test stands on. Whatever it makes is removed when it ends, however it ends.

use crate::host;
use crate::vm::Vm;
use crate::waiting::PATIENCE;
use crate::world::{RUNTIME, World};
use futures::FutureExt;
use futures::future::join_all;
use leapbox_bases::{attachment, guest_of};
use leapbox_guest_client::GuestClient;
use leapbox_network::{Slot, SlotPolicy};
use leapbox_storage::{copy_sparse, create_pristine_disk};
use leapbox_vmm::{
    BootSpec, Confinement, DiffSnapshot, IoLimits, Machine, NetworkAttachment, RestoreSpec, Shape, Snapshot, Vmm,
    VmmError,
};
use std::io::Write;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The shape most tests use: the smallest, which is the quickest.
pub const SMALL: Shape = Shape { vcpus: 1, memory_mib: 512 };
/// The largest there is.
pub const LARGE: Shape = Shape { vcpus: 8, memory_mib: 8192 };
/// No test may take longer; one that does is hung.
const TEST_DEADLINE: Duration = Duration::from_secs(400);

/// Runs one test: gives it a rig, removes what it made, prints how long it took.
pub fn conform(test: impl AsyncFnOnce(&Rig)) {
    let started = Instant::now();
    let outcome = RUNTIME.block_on(async {
        let rig = Rig { world: World::get().await, made: Mutex::default() };
        let bounded = tokio::time::timeout(TEST_DEADLINE, test(&rig));
        let outcome = AssertUnwindSafe(bounded).catch_unwind().await;
        rig.remove_all().await;
        outcome
    });
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    note(&format!("{:7.2} s  {name}", started.elapsed().as_secs_f64()));
    match outcome {
        Ok(in_time) => assert!(in_time.is_ok(), "not done after {TEST_DEADLINE:?}"),
        Err(panic) => resume_unwind(panic),
    }
}

/// Prints a line of a test that passes, too: measured numbers are part of the result.
pub fn note(line: &str) {
    // Not eprintln, which the test harness keeps back.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Where a machine is about to be: names, folders, network, prepared as the lifecycle would.
#[derive(Clone)]
pub struct Place {
    pub confinement: Confinement,
    pub disk: PathBuf,
    pub network: NetworkAttachment,
    pub guest: GuestClient,
}

/// What has to be removed again.
struct Made {
    slot: Slot,
    place: Place,
    machine: Option<Arc<Machine>>,
}

pub struct Rig {
    pub world: Arc<World>,
    made: Mutex<Vec<Made>>,
}

impl Rig {
    pub fn vmm(&self) -> &dyn Vmm {
        &*self.world.vmm
    }

    /// A new folder of this run's.
    pub fn new_dir(&self) -> PathBuf {
        let dir = self.world.dir.join(self.world.new_name());
        std::fs::create_dir(&dir).expect("a new folder");
        dir
    }

    /// A place with a network slot from which everything public may be reached, and a copy of `disk`, or an empty one.
    pub async fn place(&self, disk: Option<&Path>) -> Place {
        let slot = self.world.network.take().await.expect("a slot");
        let name = self.world.new_name();
        let slot_policy = SlotPolicy { sandbox: name.clone(), policy: Arc::default(), authority: None };
        slot.policy_installer().install(slot_policy).await.expect("a policy");
        let place = Place {
            disk: self.world.dir.join(format!("{name}.ext4")),
            confinement: Confinement { uid: slot.uid(), dir: self.world.dir.join(&name), name },
            network: attachment(&slot),
            guest: guest_of(&slot),
        };
        let (from, to, mib) = (disk.map(Path::to_path_buf), place.disk.clone(), self.world.disk_mib());
        let made = tokio::task::spawn_blocking(move || match from {
            Some(from) => copy_sparse(&from, &to),
            None => create_pristine_disk(&to, mib),
        });
        made.await.expect("no panic").expect("a disk");
        self.made().push(Made { slot, place: place.clone(), machine: None });
        place
    }

    /// Boots a machine at `place`; its RAM lies in `snapshot_dir`.
    pub async fn boot_at(&self, place: &Place, shape: Shape, snapshot_dir: PathBuf) -> Result<Vm, VmmError> {
        let spec = BootSpec {
            shape,
            image: self.world.image.clone(),
            disk: place.disk.clone(),
            network: place.network.clone(),
            confinement: place.confinement.clone(),
            snapshot_dir,
        };
        std::os::unix::fs::chown(&place.disk, Some(place.confinement.uid), Some(place.confinement.uid))
            .expect("the disk is given away");
        let machine = self.vmm().boot(spec).await?;
        Ok(self.keep(place, machine, None))
    }

    /// Starts a clone of `snapshot` at `place`. It has not been told who it is.
    pub async fn restore_at(&self, place: &Place, snapshot: &Arc<Snapshot>) -> Result<Vm, VmmError> {
        let machine = self.vmm().restore(self.restore_spec(place, snapshot)).await?;
        Ok(self.keep(place, machine, Some(Arc::clone(snapshot))))
    }

    /// Starts a clone of `base` with `changes` at `place`. It has not been told who it is.
    pub async fn restore_changed_at(
        &self,
        place: &Place,
        base: &Arc<Snapshot>,
        changes: DiffSnapshot,
    ) -> Result<Vm, VmmError> {
        let spec = RestoreSpec { changes: Some(changes), ..self.restore_spec(place, base) };
        let machine = self.vmm().restore(spec).await?;
        Ok(self.keep(place, machine, Some(Arc::clone(base))))
    }

    /// A small sandbox that may not move more than `limits`.
    pub async fn limited_sandbox(&self, limits: IoLimits) -> Vm {
        let snapshot = self.world.warm(SMALL).await;
        let place = self.place(Some(&snapshot.disk)).await;
        let spec = RestoreSpec { limits, ..self.restore_spec(&place, &snapshot) };
        let machine = self.vmm().restore(spec).await.expect("a clone starts");
        let vm = self.keep(&place, machine, Some(snapshot));
        vm.configure().await;
        vm
    }

    /// A small sandbox without walls, as `leapbox-bench` starts them for its floor.
    pub async fn bare_sandbox(&self) -> Vm {
        let snapshot = self.world.warm(SMALL).await;
        let place = self.place(Some(&snapshot.disk)).await;
        let machine = self.world.floor().await.restore(self.restore_spec(&place, &snapshot)).await;
        let vm = self.keep(&place, machine.expect("a clone starts"), Some(snapshot));
        vm.configure().await;
        vm
    }

    /// A clone of `snapshot` that has not been told who it is.
    pub async fn clone_of(&self, snapshot: &Arc<Snapshot>) -> Vm {
        let place = self.place(Some(&snapshot.disk)).await;
        self.restore_at(&place, snapshot).await.expect("a clone starts")
    }

    /// A sandbox of a shape.
    pub async fn sandbox_of(&self, shape: Shape) -> Vm {
        let vm = self.clone_of(&self.world.warm(shape).await).await;
        vm.configure().await;
        vm
    }

    /// A small sandbox.
    pub async fn sandbox(&self) -> Vm {
        self.sandbox_of(SMALL).await
    }

    /// Two small sandboxes.
    pub async fn neighbours(&self) -> (Vm, Vm) {
        tokio::join!(self.sandbox(), self.sandbox())
    }

    /// Several small sandboxes, all asked for at once.
    pub async fn sandboxes(&self, count: usize) -> Vec<Vm> {
        join_all((0..count).map(|_| self.sandbox())).await
    }

    /// Fails if the host still has anything of a machine that has ended, or never began.
    pub async fn assert_nothing_left_of(&self, confinement: &Confinement) {
        let Confinement { name, uid, dir } = confinement;
        let processes = host::processes_of(*uid);
        assert!(processes.is_empty(), "processes {processes:?} of user {uid} are left of {name}");
        let groups = self.vmm().leftovers().await.expect("a list");
        assert!(!groups.contains(name), "{name} is still listed: {groups:?}");
        assert!(!dir.exists(), "{} is left", dir.display());
    }

    /// What a driver is told to start a clone.
    pub fn restore_spec(&self, place: &Place, snapshot: &Arc<Snapshot>) -> RestoreSpec {
        RestoreSpec {
            snapshot: Arc::clone(snapshot),
            changes: None,
            image: self.world.image.clone(),
            disk: place.disk.clone(),
            limits: IoLimits::default(),
            network: place.network.clone(),
            confinement: place.confinement.clone(),
        }
    }

    /// Takes a started machine among those that are removed in the end.
    pub fn keep(&self, place: &Place, machine: Machine, snapshot: Option<Arc<Snapshot>>) -> Vm {
        let machine: Arc<Machine> = machine.into();
        let mut made = self.made();
        let mine = made.iter_mut().find(|made| made.place.confinement.name == place.confinement.name);
        mine.expect("one of this test's").machine = Some(Arc::clone(&machine));
        let Place { confinement, disk, guest, .. } = place.clone();
        Vm { machine, guest, snapshot, disk, confinement }
    }

    async fn remove_all(&self) {
        let made = std::mem::take(&mut *self.made());
        join_all(made.into_iter().map(|made| self.remove(made))).await;
    }

    async fn remove(&self, made: Made) {
        let Made { slot, place, machine } = made;
        let Confinement { name, dir, .. } = &place.confinement;
        if let Some(machine) = machine
            && tokio::time::timeout(PATIENCE, machine.destroy()).await.is_err()
        {
            note(&format!("{name} does not let itself be destroyed"));
        }
        if let Err(error) = self.vmm().reap(name, dir).await {
            note(&format!("{name} cannot be removed: {error}"));
        }
        slot.close().await;
        // Gone already if the test took it away.
        let _ = std::fs::remove_file(&place.disk);
    }

    fn made(&self) -> std::sync::MutexGuard<'_, Vec<Made>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of something that had to be refused.
pub fn refusal(outcome: Result<Vm, VmmError>) -> VmmError {
    match outcome {
        Ok(vm) => panic!("{} was started", vm.confinement.name),
        Err(error) => error,
    }
}

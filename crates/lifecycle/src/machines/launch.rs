//! Launches a machine: takes a network slot, makes the disk, restores the base. Each step that succeeds pushes its
//! clean-up, so a launch that fails frees everything again. Called by `host` and by `pool`.

use super::capacity::CapacityShare;
use super::cleanup::Cleanup;
use super::store_context::StoreContext;
use super::vm::{SlotHandle, Vm};
use crate::catalog::Template;
use crate::error::LaunchError;
use leapbox_api_types::sandbox::DISK_MIB;
use leapbox_bases::{Base, Bases, attachment, guest_of};
use leapbox_db::{Live, Origin};
use leapbox_errors::chain;
use leapbox_guest_client::GuestClient;
use leapbox_ids::SandboxId;
use leapbox_network::{Network, Slot, SlotPolicy};
use leapbox_storage::{Runs, copy_sparse, write_disk};
use leapbox_vmm::{Confinement, DiffSnapshot, IoLimits, Machine, RestoreSpec, Vmm, VmmError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The pause before a step of taking over is tried again: the first, and the longest.
const ADOPT_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// The source of a machine's disk.
pub(super) enum Disk {
    /// A copy of the base's disk.
    OfBase,
    /// The disk of a checkpoint.
    Stored(Runs),
}

/// The parts of the host that a launch needs.
pub(crate) struct Launcher {
    pub vmm: Arc<dyn Vmm>,
    pub network: Arc<Network>,
    pub bases: Bases,
    store_context: Arc<StoreContext>,
    io_limits: IoLimits,
    machines_dir: PathBuf,
    disks_dir: PathBuf,
}

impl Launcher {
    pub fn new(
        vmm: Arc<dyn Vmm>,
        network: Arc<Network>,
        bases: Bases,
        store_context: Arc<StoreContext>,
        io_limits: IoLimits,
        state_dir: &Path,
    ) -> Self {
        let (machines_dir, disks_dir) = (state_dir.join("machines"), state_dir.join("disks"));
        Self { vmm, network, bases, store_context, io_limits, machines_dir, disks_dir }
    }

    /// The directories of machines and of disks.
    pub fn dirs(&self) -> [&Path; 2] {
        [&self.machines_dir, &self.disks_dir]
    }

    /// Path of the disk of the machine `name`.
    pub fn disk(&self, name: &str) -> PathBuf {
        self.disks_dir.join(format!("{name}.ext4"))
    }

    /// Directory of the other files of the machine `name`.
    pub fn machine_dir(&self, name: &str) -> PathBuf {
        self.machines_dir.join(name)
    }

    /// Starts a clone of `base`, with the `changes` of a checkpoint if there are any. On failure nothing of it is left.
    ///
    /// Returns when the VMM runs. The agent was ready when the base was taken, so nothing is asked of it before it gets
    /// its identity: under emulation the first exchange with a clone is several times slower than later ones.
    pub async fn launch(
        &self,
        template: &Template,
        base: Arc<Base>,
        disk: Disk,
        changes: Option<DiffSnapshot>,
        share: CapacityShare,
    ) -> Result<Vm, LaunchError> {
        let mut cleanup = Cleanup::default();
        let name = machine_name();
        match self.start(&name, template, &base, disk, changes, &mut cleanup).await {
            Ok((machine, guest, slot)) => {
                // The template may have been rebuilt since; the row must name what this machine really runs.
                let origin = Origin { base: base.id.clone(), image: template.image.digest.clone() };
                let (disk, base, store_context) = (self.disk(&name), Some(base), Arc::clone(&self.store_context));
                Ok(Vm { machine, guest, slot, disk, origin, base, store_context, cleanup, share })
            }
            Err(error) => {
                cleanup.run().await;
                Err(error)
            }
        }
    }

    async fn start(
        &self,
        name: &str,
        template: &Template,
        base: &Arc<Base>,
        disk: Disk,
        changes: Option<DiffSnapshot>,
        cleanup: &mut Cleanup,
    ) -> Result<(Arc<Machine>, GuestClient, SlotHandle), LaunchError> {
        let slot = self.network.take().await.map_err(LaunchError::Network)?;
        let (held, uid) = (SlotHandle::new(&slot), slot.uid());
        let (network, guest) = (attachment(&slot), guest_of(&slot));
        // Pushed before anything can fail: a slot that is only dropped would not be closed.
        clean_up_slot(cleanup, slot);

        let disk = self.make_disk(name, base, disk, cleanup).await?;
        let spec = RestoreSpec {
            snapshot: Arc::clone(&base.snapshot),
            changes,
            image: template.image.clone(),
            disk,
            limits: self.io_limits,
            network,
            confinement: Confinement { name: name.to_owned(), uid, dir: self.machine_dir(name) },
        };
        let machine: Arc<Machine> = self.vmm.restore(spec).await.map_err(LaunchError::Vmm)?.into();
        clean_up_machine(cleanup, Arc::clone(&machine));
        Ok((machine, guest, held))
    }

    async fn make_disk(
        &self,
        name: &str,
        base: &Base,
        from: Disk,
        cleanup: &mut Cleanup,
    ) -> Result<PathBuf, LaunchError> {
        let disk = self.disk(name);
        // Pushed first, because a copy that fails half way leaves a part of the file.
        clean_up_disk(cleanup, disk.clone());
        let (pristine, to) = (base.snapshot.disk.clone(), disk.clone());
        let make = move || match from {
            Disk::OfBase => copy_sparse(&pristine, &to),
            Disk::Stored(runs) => write_disk(&to, DISK_MIB << 20, runs),
        };
        tokio::task::spawn_blocking(make).await.map_err(LaunchError::Interrupted)?.map_err(LaunchError::Disk)?;
        Ok(disk)
    }

    /// Takes over a machine that the previous server left running: its process, its slot, and the policy in it. An error
    /// is a proven death; everything else is tried again.
    pub async fn take_over(&self, live: &Live, slot_policy: SlotPolicy) -> Result<TakenOver, VmmError> {
        let sandbox = slot_policy.sandbox.clone();
        let machine = persist(&sandbox, || async {
            match self.vmm.adopt(live.vm.machine.clone()).await {
                Err(error) if !error.is_death() => Err(error),
                adopted_or_dead => Ok(adopted_or_dead),
            }
        });
        let machine: Arc<Machine> = machine.await?.into();
        // Namespaces have no names that a killed server would leave behind. The VMM's process holds this one.
        let network = persist(&sandbox, || async {
            let netns = machine.netns().map_err(LaunchError::Vmm)?;
            let slot = self.network.adopt(live.vm.slot, netns).await.map_err(LaunchError::Network)?;
            let handle = SlotHandle::new(&slot);
            // A slot takes one policy in its life, also if that could not be put in force: then it is dropped here, and
            // adopted anew.
            let installed = handle.policy_installer.install_again(slot_policy.clone()).await;
            installed.map_err(LaunchError::Network)?;
            Ok::<_, LaunchError>((slot, handle))
        });
        let (slot, handle) = while_alive(&machine, network).await?;
        Ok(TakenOver { machine, slot, handle })
    }

    /// Makes the VM of a machine that was taken over.
    pub fn vm_of(&self, taken: TakenOver, live: &Live, base: Option<Arc<Base>>, share: CapacityShare) -> Vm {
        let TakenOver { machine, slot, handle } = taken;
        let (guest, disk) = (guest_of(&slot), self.disk(&live.vm.machine.name));
        let mut cleanup = Cleanup::default();
        clean_up_slot(&mut cleanup, slot);
        clean_up_disk(&mut cleanup, disk.clone());
        clean_up_machine(&mut cleanup, Arc::clone(&machine));
        let (origin, store_context) = (live.origin.clone(), Arc::clone(&self.store_context));
        Vm { machine, guest, slot: handle, disk, origin, base, store_context, cleanup, share }
    }
}

/// A machine of the previous server that is this one's now.
pub(super) struct TakenOver {
    machine: Arc<Machine>,
    slot: Slot,
    handle: SlotHandle,
}

/// Repeats a step of taking over until it succeeds. The pause in between doubles.
async fn persist<T, E, F>(sandbox: &str, mut step: impl FnMut() -> F) -> T
where
    E: std::error::Error,
    F: Future<Output = Result<T, E>>,
{
    let (mut pause, longest) = ADOPT_RETRY;
    loop {
        match step().await {
            Ok(done) => return done,
            Err(error) => tracing::warn!(
                event = "adoption_delayed", sandbox, error = %chain(&error), again_s = pause.as_secs_f32(),
                "a sandbox cannot be taken over yet: it runs on, and it is tried again"
            ),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Waits for a step of taking over; an error if the machine ends first.
async fn while_alive<T>(machine: &Machine, step: impl Future<Output = T>) -> Result<T, VmmError> {
    tokio::select! {
        biased;
        done = step => Ok(done),
        reason = machine.exited() => Err(VmmError::Died { stage: "being taken over", reason }),
    }
}

fn clean_up_slot(cleanup: &mut Cleanup, slot: Slot) {
    cleanup.push("network slot", || slot.close());
}

fn clean_up_disk(cleanup: &mut Cleanup, disk: PathBuf) {
    cleanup.push(super::vm::DISK, || async move {
        match tokio::fs::remove_file(&disk).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(
                    disk = %disk.display(), error = %chain(&error),
                    "a machine's disk could not be removed; the next start removes it"
                );
            }
            _ => {}
        }
    });
}

fn clean_up_machine(cleanup: &mut Cleanup, machine: Arc<Machine>) {
    cleanup.push("machine", || async move {
        if let Err(error) = machine.destroy().await {
            tracing::warn!(error = %chain(&error), "a machine could not be removed; the next start removes it");
        }
    });
}

/// A new machine's name. It is not its sandbox's id, because a pooled machine exists before its sandbox has one.
fn machine_name() -> String {
    // It is the name of a control group, of a jail and of files, for all of which a sandbox's id has the right form.
    let id = SandboxId::generate();
    id.as_str().replace(SandboxId::PREFIX, "vm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_names_are_unique_and_fit_a_control_group() {
        let (one, two) = (machine_name(), machine_name());
        assert_ne!(one, two);
        assert!(one.starts_with("vm-") && one.len() <= 60);
    }
}

//! Making a machine: slot, disk, restore. What fails leaves nothing behind.

use super::capacity::Permit;
use super::cleanup::Cleanup;
use super::storing::Storing;
use super::vm::{SlotOf, Vm};
use crate::catalog::Template;
use crate::error::LaunchError;
use leapbox_api_types::sandbox::DISK_MIB;
use leapbox_bases::{Base, Bases, attachment, guest_of};
use leapbox_db::{Live, Origin};
use leapbox_errors::chain;
use leapbox_guest_client::GuestClient;
use leapbox_ids::SandboxId;
use leapbox_network::{Admission, Network, Slot};
use leapbox_storage::{Runs, copy_sparse, write_disk};
use leapbox_vmm::{Confinement, DiffSnapshot, IoLimits, Machine, RestoreSpec, Vmm};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What an adopted machine's agent gets to answer.
const ADOPT_DEADLINE: Duration = Duration::from_secs(10);

/// What a machine's disk is made of.
pub(super) enum Disk {
    /// The base's own.
    OfBase,
    /// What was stored.
    Stored(Runs),
}

/// What launching needs.
pub(crate) struct Launcher {
    pub vmm: Arc<dyn Vmm>,
    pub network: Arc<Network>,
    pub bases: Bases,
    storing: Arc<Storing>,
    io_limits: IoLimits,
    machines_dir: PathBuf,
    disks_dir: PathBuf,
}

impl Launcher {
    pub fn new(
        vmm: Arc<dyn Vmm>,
        network: Arc<Network>,
        bases: Bases,
        storing: Arc<Storing>,
        io_limits: IoLimits,
        state_dir: &Path,
    ) -> Self {
        let (machines_dir, disks_dir) = (state_dir.join("machines"), state_dir.join("disks"));
        Self { vmm, network, bases, storing, io_limits, machines_dir, disks_dir }
    }

    /// The folders machines and disks live in.
    pub fn dirs(&self) -> [&Path; 2] {
        [&self.machines_dir, &self.disks_dir]
    }

    /// Where the disk of the machine `name` lies.
    pub fn disk(&self, name: &str) -> PathBuf {
        self.disks_dir.join(format!("{name}.ext4"))
    }

    /// Where the files of the machine `name` lie.
    pub fn machine_dir(&self, name: &str) -> PathBuf {
        self.machines_dir.join(name)
    }

    /// Starts a clone of `base` with what has changed since. Its agent was ready when it was stored, so nothing is asked
    /// of it before it is told who it is: under emulation every first exchange is slow.
    pub async fn launch(
        &self,
        template: &Template,
        base: Arc<Base>,
        disk: Disk,
        changes: Option<DiffSnapshot>,
        permit: Permit,
    ) -> Result<Vm, LaunchError> {
        let mut cleanup = Cleanup::default();
        let name = machine_name();
        match self.start(&name, template, &base, disk, changes, &mut cleanup).await {
            Ok((machine, guest, slot)) => {
                let origin = Origin { base: base.id.clone(), image: template.image.digest.clone() };
                let (disk, base, storing) = (self.disk(&name), Some(base), Arc::clone(&self.storing));
                Ok(Vm { machine, guest, slot, disk, origin, base, storing, cleanup, permit })
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
    ) -> Result<(Arc<Machine>, GuestClient, SlotOf), LaunchError> {
        let slot = self.network.take().await.map_err(LaunchError::Network)?;
        let (held, uid) = (SlotOf::new(&slot), slot.uid());
        let (network, guest) = (attachment(&slot), guest_of(&slot));
        give_back_slot(cleanup, slot);

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
        give_back_machine(cleanup, Arc::clone(&machine));
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
        give_back_disk(cleanup, disk.clone());
        let (pristine, to) = (base.snapshot.disk.clone(), disk.clone());
        let make = move || match from {
            Disk::OfBase => copy_sparse(&pristine, &to),
            Disk::Stored(runs) => write_disk(&to, DISK_MIB << 20, runs),
        };
        tokio::task::spawn_blocking(make).await.map_err(LaunchError::Interrupted)?.map_err(LaunchError::Disk)?;
        Ok(disk)
    }

    /// Takes over a machine that a former server left running. It may be suspended: its CPUs go on.
    pub async fn adopt(
        &self,
        live: &Live,
        base: Option<Arc<Base>>,
        admission: Admission,
        permit: Permit,
    ) -> Result<Vm, LaunchError> {
        let disk = self.disk(&live.vm.machine.name);
        let mut cleanup = Cleanup::default();
        let machine: Arc<Machine> = self.vmm.adopt(live.vm.machine.clone()).await.map_err(LaunchError::Vmm)?.into();
        let netns = machine.netns().map_err(LaunchError::Vmm)?;
        let slot = self.network.adopt(live.vm.slot, netns).await.map_err(LaunchError::Network)?;
        let (guest, held) = (guest_of(&slot), SlotOf::new(&slot));
        held.gatekeeper.admit_again(admission).await.map_err(LaunchError::Network)?;
        let name = machine.record().name;
        if let Err(error) = machine.resume().await {
            tracing::warn!(machine = name, error = %chain(&error), "an adopted machine does not go on yet");
        }
        if let Err(error) = guest.clone().with_deadline(ADOPT_DEADLINE).ping().await {
            // Slow is not lost: its task goes on asking.
            tracing::warn!(machine = name, error = %chain(&error), "an adopted guest does not answer yet");
        }
        give_back_slot(&mut cleanup, slot);
        give_back_disk(&mut cleanup, disk.clone());
        give_back_machine(&mut cleanup, Arc::clone(&machine));
        let (origin, storing) = (live.origin.clone(), Arc::clone(&self.storing));
        Ok(Vm { machine, guest, slot: held, disk, origin, base, storing, cleanup, permit })
    }
}

fn give_back_slot(cleanup: &mut Cleanup, slot: Slot) {
    cleanup.push("network slot", || slot.close());
}

fn give_back_disk(cleanup: &mut Cleanup, disk: PathBuf) {
    cleanup.push(super::vm::DISK, || async move {
        match tokio::fs::remove_file(&disk).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(disk = %disk.display(), error = %chain(&error), "a disk could not be removed");
            }
            _ => {}
        }
    });
}

fn give_back_machine(cleanup: &mut Cleanup, machine: Arc<Machine>) {
    cleanup.push("machine", || async move {
        if let Err(error) = machine.destroy().await {
            tracing::warn!(error = %chain(&error), "a machine could not be removed");
        }
    });
}

/// A machine's name is not its sandbox's: a pooled machine lives before its sandbox has an id.
fn machine_name() -> String {
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

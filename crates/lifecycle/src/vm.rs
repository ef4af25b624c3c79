//! A running clone, and everything that has to be given back when it ends.

use crate::capacity::Permit;
use crate::catalog::Template;
use crate::cleanup::Cleanup;
use crate::clock::now_ns;
use crate::error::LaunchError;
use leapbox_guest_client::GuestClient;
use leapbox_guest_protocol::{Configure, Entropy};
use leapbox_ids::SandboxId;
use leapbox_network::{Network, Slot};
use leapbox_storage::copy_sparse;
use leapbox_templates::{WarmSnapshots, attachment, guest_of};
use leapbox_vmm::{Confinement, IoLimits, Machine, MachineRecord, RestoreSpec, Snapshot, Vmm};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How late a guest's clock may be when it is handed over: half of what is promised.
const CLOCK_MAX_LATE: Duration = Duration::from_secs(1);
const CONFIGURE_ATTEMPTS: usize = 5;
/// What an adopted machine's agent gets to answer.
const ADOPT_DEADLINE: Duration = Duration::from_secs(10);

/// What the database keeps of a machine, so that the next server finds it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredVm {
    pub machine: MachineRecord,
    pub slot: u32,
}

/// One clone. Ends by [`Vm::destroy`].
pub(crate) struct Vm {
    pub machine: Arc<dyn Machine>,
    pub guest: GuestClient,
    slot: u32,
    cleanup: Cleanup,
    _permit: Permit,
}

impl Vm {
    /// What the database keeps.
    pub fn stored(&self) -> StoredVm {
        StoredVm { machine: self.machine.record(), slot: self.slot }
    }

    /// Makes it a sandbox: fresh randomness, the right time, its own identity and environment. An error means that
    /// the guest did not confirm all of it, and that it must not be used.
    pub async fn become_sandbox(&self, id: &SandboxId, env: Vec<(String, String)>) -> Result<(), LaunchError> {
        let mut entropy = [0; 64];
        let (mut machine_id, mut boot_id) = ([0; 16], [0; 16]);
        for bytes in [&mut entropy[..], &mut machine_id, &mut boot_id] {
            getrandom::fill(bytes).map_err(|_| LaunchError::NotConfirmed { what: "randomness of the host's own" })?;
        }
        let mut configure = Configure {
            hostname: id.as_str().to_owned(),
            entropy: Entropy(entropy),
            wall_clock_unix_ns: 0,
            machine_id: as_uuid(machine_id),
            boot_id: as_uuid(boot_id),
            env,
        };
        for _ in 0..CONFIGURE_ATTEMPTS {
            let told = Instant::now();
            configure.wall_clock_unix_ns = u64::try_from(now_ns()).unwrap_or_default();
            let configured = self.guest.configure(configure.clone()).await;
            configured.map_err(|source| LaunchError::Agent { stage: "taking its identity", source })?;
            // The time it was told is as old as the exchange was long, and the first one on a busy host is slow.
            if told.elapsed() < CLOCK_MAX_LATE {
                return Ok(());
            }
        }
        Err(LaunchError::NotConfirmed { what: "the right time" })
    }

    /// Ends it and gives everything back.
    pub async fn destroy(self) {
        self.cleanup.run().await;
    }

    /// Leaves it running for the next server.
    pub fn leave(self) {
        self.cleanup.disown();
    }
}

/// A random UUID (RFC 9562, version 4), as machine ids and boot ids are.
fn as_uuid(mut bytes: [u8; 16]) -> [u8; 16] {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

/// What launching needs.
pub(crate) struct Launcher {
    pub vmm: Arc<dyn Vmm>,
    pub network: Arc<Network>,
    pub warm: WarmSnapshots,
    io_limits: IoLimits,
    machines_dir: PathBuf,
    disks_dir: PathBuf,
}

impl Launcher {
    pub fn new(
        vmm: Arc<dyn Vmm>,
        network: Arc<Network>,
        warm: WarmSnapshots,
        io_limits: IoLimits,
        state_dir: &Path,
    ) -> Self {
        let (machines_dir, disks_dir) = (state_dir.join("machines"), state_dir.join("disks"));
        Self { vmm, network, warm, io_limits, machines_dir, disks_dir }
    }

    /// The folders machines and disks live in.
    pub fn dirs(&self) -> [&Path; 2] {
        [&self.machines_dir, &self.disks_dir]
    }

    /// Where the disk of the machine `name` lies.
    pub fn disk(&self, name: &str) -> PathBuf {
        self.disks_dir.join(format!("{name}.ext4"))
    }

    /// Starts a clone. Its agent was ready when the snapshot was taken, so nothing is asked of it before it is told who
    /// it is: under emulation every first exchange is slow. On failure nothing of the clone is left.
    pub async fn launch(
        &self,
        template: &Template,
        snapshot: Arc<Snapshot>,
        permit: Permit,
    ) -> Result<Vm, LaunchError> {
        let mut cleanup = Cleanup::default();
        match self.start(template, snapshot, &mut cleanup).await {
            Ok((machine, guest, slot)) => Ok(Vm { machine, guest, slot, cleanup, _permit: permit }),
            Err(error) => {
                cleanup.run().await;
                Err(error)
            }
        }
    }

    async fn start(
        &self,
        template: &Template,
        snapshot: Arc<Snapshot>,
        cleanup: &mut Cleanup,
    ) -> Result<(Arc<dyn Machine>, GuestClient, u32), LaunchError> {
        let name = machine_name();
        let slot = self.network.take().await.map_err(LaunchError::Network)?;
        let (index, uid) = (slot.index(), slot.uid());
        let (network, guest) = (attachment(&slot), guest_of(&slot));
        give_back_slot(cleanup, slot);

        let disk = self.copy_disk(&name, snapshot.disk.clone(), cleanup).await?;
        let dir = self.machines_dir.join(&name);
        let spec = RestoreSpec {
            snapshot,
            image: template.image.clone(),
            disk,
            limits: self.io_limits,
            network,
            confinement: Confinement { name, uid, dir },
        };
        let machine: Arc<dyn Machine> = self.vmm.restore(spec).await.map_err(LaunchError::Vmm)?.into();
        give_back_machine(cleanup, Arc::clone(&machine));
        Ok((machine, guest, index))
    }

    async fn copy_disk(&self, name: &str, from: PathBuf, cleanup: &mut Cleanup) -> Result<PathBuf, LaunchError> {
        let disk = self.disk(name);
        give_back_disk(cleanup, disk.clone());
        let to = disk.clone();
        tokio::task::spawn_blocking(move || copy_sparse(&from, &to))
            .await
            .map_err(LaunchError::Interrupted)?
            .map_err(LaunchError::Disk)?;
        Ok(disk)
    }

    /// Takes over a machine that a former server left running.
    pub async fn adopt(&self, stored: StoredVm, permit: Permit) -> Result<Vm, LaunchError> {
        let disk = self.disk(&stored.machine.name);
        let mut cleanup = Cleanup::default();
        let machine: Arc<dyn Machine> = self.vmm.adopt(stored.machine).await.map_err(LaunchError::Vmm)?.into();
        let netns = machine.netns().map_err(LaunchError::Vmm)?;
        let slot = self.network.adopt(stored.slot, netns).await.map_err(LaunchError::Network)?;
        let guest = guest_of(&slot);
        let answered = guest.clone().with_deadline(ADOPT_DEADLINE).ping().await;
        give_back_slot(&mut cleanup, slot);
        give_back_disk(&mut cleanup, disk);
        give_back_machine(&mut cleanup, Arc::clone(&machine));
        if let Err(source) = answered {
            cleanup.run().await;
            return Err(LaunchError::Agent { stage: "being found again", source });
        }
        Ok(Vm { machine, guest, slot: stored.slot, cleanup, _permit: permit })
    }
}

fn give_back_slot(cleanup: &mut Cleanup, slot: Slot) {
    cleanup.push("network slot", || slot.close());
}

fn give_back_disk(cleanup: &mut Cleanup, disk: PathBuf) {
    cleanup.push("disk", || async move {
        match tokio::fs::remove_file(&disk).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(disk = %disk.display(), %error, "a disk could not be removed");
            }
            _ => {}
        }
    });
}

fn give_back_machine(cleanup: &mut Cleanup, machine: Arc<dyn Machine>) {
    cleanup.push("machine", || async move {
        if let Err(error) = machine.destroy().await {
            tracing::warn!(%error, "a machine could not be removed");
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

    #[test]
    fn identities_are_uuids_of_version_4() {
        let id = as_uuid([0xff; 16]);
        assert_eq!((id[6] >> 4, id[8] >> 6), (4, 2));
    }
}

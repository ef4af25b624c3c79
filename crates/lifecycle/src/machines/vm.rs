//! A machine of this host: the VMM process, its guest's agent, its slot and disk, and the steps that free them.

use super::capacity::CapacityShare;
use super::checkpoint::{self, Header};
use super::cleanup::Cleanup;
use super::store_context::StoreContext;
use super::{Activation, CheckpointPin, Egress, Owner, SandboxVm, owner};
use crate::clock::now_ns;
use crate::error::{CheckpointError, LaunchError};
use async_trait::async_trait;
use leapbox_bases::Base;
use leapbox_db::{Origin, Spec, VmRecord};
use leapbox_errors::chain;
use leapbox_guest_client::GuestClient;
use leapbox_guest_protocol::{Configure, Entropy, Identity, Trust};
use leapbox_ids::{ArchiveId, CheckpointId, SandboxId};
use leapbox_network::{PolicyInstaller, Slot, SlotPolicy};
use leapbox_vmm::{ExitReason, Machine};
use sha2::{Digest, Sha256};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How late a guest's clock may be when the guest confirms it: half of the two seconds that are promised (case 36).
const CLOCK_MAX_LATE: Duration = Duration::from_secs(1);
/// How often a guest is configured before a clock that stays too late is an error. The first exchange with a clone is
/// slow under emulation; later ones take milliseconds.
const CONFIGURE_ATTEMPTS: usize = 5;
/// How long a workload has between SIGTERM and SIGKILL.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// The name of the clean-up step that removes the disk.
pub(super) const DISK: &str = "disk";

/// A machine's handle of its slot. The slot itself is owned by the clean-up stack, which closes it.
pub(crate) struct SlotHandle {
    index: u32,
    pub(super) policy_installer: PolicyInstaller,
}

impl SlotHandle {
    pub(super) fn new(slot: &Slot) -> Self {
        Self { index: slot.index(), policy_installer: slot.policy_installer() }
    }
}

/// The policy that the slot of the sandbox `id` gets.
pub(super) fn slot_policy(id: &SandboxId, egress: &Egress) -> SlotPolicy {
    SlotPolicy {
        sandbox: id.as_str().to_owned(),
        policy: Arc::clone(&egress.policy),
        authority: egress.authority.clone(),
    }
}

/// A running machine: a clone of a base, pooled or a sandbox's.
pub(crate) struct Vm {
    pub machine: Arc<Machine>,
    pub guest: GuestClient,
    pub(super) slot: SlotHandle,
    pub(super) disk: PathBuf,
    pub(super) origin: Origin,
    /// The base that its memory is a difference to; holding it keeps it from being evicted. `None` for an adopted
    /// machine whose base is lost: it runs on, but cannot be stored.
    pub(super) base: Option<Arc<Base>>,
    pub(super) store_context: Arc<StoreContext>,
    pub(super) cleanup: Cleanup,
    #[expect(dead_code, reason = "frees its share of the host's capacity when it is dropped")]
    pub(super) share: CapacityShare,
}

impl Vm {
    /// Its private memory and the data of its disk, in MiB: about the most that storing it takes.
    fn own_mib(&self) -> u64 {
        let memory = self.machine.private_bytes().unwrap_or_default();
        let disk = std::fs::metadata(&self.disk).map_or(0, |meta| meta.blocks() * 512);
        (memory + disk) >> 20
    }

    /// Puts the policy in force; nothing leaves the slot before.
    async fn install_policy(&self, id: &SandboxId, egress: &Egress) -> Result<(), LaunchError> {
        self.slot.policy_installer.install(slot_policy(id, egress)).await.map_err(LaunchError::Network)
    }

    /// Gives the guest its identity, fresh randomness and the time, and the certificate (PEM) of the authority that it
    /// trusts beside those of its image.
    pub async fn take_identity(
        &self,
        id: &SandboxId,
        activation: Activation<'_>,
        authority: Option<String>,
    ) -> Result<(), LaunchError> {
        self.configure_guest(configure_message(id, Some(activation), authority)?).await
    }

    /// Sends the message until the guest confirms a clock that is right.
    async fn configure_guest(&self, mut message: Configure) -> Result<(), LaunchError> {
        for _ in 0..CONFIGURE_ATTEMPTS {
            let sent_at = Instant::now();
            message.wall_clock_unix_ns = u64::try_from(now_ns()).unwrap_or_default();
            let configured = self.guest.configure(message.clone()).await;
            configured.map_err(|source| LaunchError::Agent { stage: "taking its identity", source })?;
            // The guest sets its clock to a time that is as old as the exchange was long, which on a busy host may be
            // seconds. Then it gets the time once more.
            if sent_at.elapsed() < CLOCK_MAX_LATE {
                return Ok(());
            }
        }
        Err(LaunchError::NotConfirmed { what: "the right time" })
    }
}

#[async_trait]
impl SandboxVm for Vm {
    fn record(&self) -> VmRecord {
        VmRecord { machine: self.machine.record(), slot: self.slot.index }
    }

    fn origin(&self) -> Origin {
        self.origin.clone()
    }

    fn guest(&self) -> GuestClient {
        self.guest.clone()
    }

    async fn become_sandbox(
        &self,
        id: &SandboxId,
        activation: Activation<'_>,
        egress: &Egress,
    ) -> Result<(), LaunchError> {
        let trust = egress.authority.as_ref().map(|authority| authority.certificate_pem().to_owned());
        if let Activation::New(_) = activation {
            // A clone of a base has no workload yet, so nothing can leave before the policy is in force. Installing it
            // takes milliseconds (mostly `nft`), which matter for the 30 ms of a pooled create.
            let (installed, configured) =
                tokio::join!(self.install_policy(id, egress), self.take_identity(id, activation, trust));
            return installed.and(configured);
        }
        // Any `Configure` message thaws a stored workload, so the policy has to be in force before it is sent.
        self.install_policy(id, egress).await?;
        self.take_identity(id, activation, trust).await
    }

    async fn mark(&self, owner: &Owner) -> Result<(), LaunchError> {
        owner::write(&self.machine.record().dir, owner).map_err(LaunchError::Owner)
    }

    async fn resume_workload(&self, id: &SandboxId) -> Result<(), LaunchError> {
        self.configure_guest(configure_message(id, None, None)?).await
    }

    async fn suspend(&self) -> Result<(), CheckpointError> {
        // A hostile guest must not be able to prevent its pause and so to keep its memory on the host: whatever the
        // agent answers, the CPUs are stopped from outside.
        match self.guest.suspend().await {
            Ok(suspended) if suspended.frozen => {}
            Ok(_) => tracing::warn!(machine = self.machine.record().name, "a workload did not freeze in time"),
            Err(error) => {
                tracing::warn!(machine = self.machine.record().name, error = %chain(&error), "a guest did not freeze");
            }
        }
        self.machine.pause().await.map_err(CheckpointError::Vmm)
    }

    async fn resume(&self) -> Result<(), LaunchError> {
        self.machine.resume().await.map_err(LaunchError::Vmm)
    }

    async fn store(&self, spec: &Spec, checkpoint: &CheckpointId) -> Result<CheckpointPin, CheckpointError> {
        let StoreContext { archives, stamps, capacity, exports } = self.store_context.as_ref();
        // About the most that the archive can take, so that the disk does not fill up half way, at the cost of running
        // sandboxes. What is left is freed again when the archive is written.
        let _reservation = capacity.reserve_disk(self.own_mib()).map_err(CheckpointError::of_full_disk)?;
        let base = self.base.as_ref().ok_or(CheckpointError::NoBase(None))?;
        let stamp = stamps.next().await?;
        let changes = self.machine.snapshot_diff().await.map_err(CheckpointError::Vmm)?;
        let (key, driver) = (base.snapshot.compatibility_key.clone(), self.machine.record().driver);
        let header = Header::of_memory(spec, &self.origin, key, driver);
        let stored = checkpoint::write(archives, checkpoint, stamp, header, Some(changes), self.disk.clone()).await?;
        // The bucket alone must be enough to wake the sandbox on a host that has lost its directory.
        exports.want([ArchiveId::from(&self.origin.base), ArchiveId::from(&self.origin.image)]);
        Ok(stored)
    }

    async fn shut_down(&self) {
        if let Err(error) = self.guest.shutdown(SHUTDOWN_GRACE).await {
            let machine = self.machine.record().name;
            // Not a reason to keep it running: its owner wants it stopped, and ext4's journal covers a power cut.
            tracing::warn!(
                machine, error = %chain(&error),
                "a guest did not shut down: its disk is as a power cut leaves it"
            );
        }
    }

    async fn exited(&self) -> ExitReason {
        self.machine.exited().await
    }

    async fn console_tail(&self) -> String {
        self.machine.console_tail().await
    }

    async fn destroy(self: Box<Self>) {
        self.cleanup.run().await;
    }

    async fn end_keeping_disk(mut self: Box<Self>) {
        // Stops the CPUs and waits for the disk writes that the VMM has begun. If that fails, the machine is killed all
        // the same.
        if let Err(error) = self.machine.pause().await {
            tracing::warn!(
                machine = self.machine.record().name, error = %chain(&error),
                "a machine's CPUs could not be stopped before its end: its disk may lack its last writes"
            );
        }
        self.cleanup.skip(DISK);
        self.cleanup.run().await;
    }

    fn detach(self: Box<Self>) {
        self.cleanup.disown();
    }
}

/// Builds the [`Configure`] message, which always has fresh randomness. With an activation it makes the guest the
/// sandbox `id`; without one it only thaws it.
fn configure_message(
    id: &SandboxId,
    activation: Option<Activation<'_>>,
    authority: Option<String>,
) -> Result<Configure, LaunchError> {
    // All clones of a base have the same random pool and return the same bytes until it is reseeded (case 35).
    let (mut entropy, mut boot_id) = ([0; 64], [0; 16]);
    for bytes in [&mut entropy[..], &mut boot_id] {
        getrandom::fill(bytes).map_err(LaunchError::Random)?;
    }
    let names = Identity { machine_id: machine_id(id), boot_id: as_uuid(boot_id) };
    let (identity, env, restored, trust) = match activation {
        // A base trusts no authority of ours, so without transforms there is nothing to remove.
        Some(Activation::New(environment)) => {
            (Some(names), Some(environment.to_vec()), false, authority.map(Trust::Certificate))
        }
        // The stored sandbox may have trusted its own authority, which must not be trusted here.
        Some(Activation::Another) => (Some(names), None, true, Some(authority.map_or(Trust::None, Trust::Certificate))),
        // Programs that run may have the ids in memory; a woken sandbox must not change them under their feet.
        Some(Activation::Woken) => (None, None, true, None),
        None => (None, None, false, None),
    };
    Ok(Configure {
        hostname: id.as_str().to_owned(),
        entropy: Entropy(entropy),
        // Set right before each attempt to send this.
        wall_clock_unix_ns: 0,
        identity,
        env,
        restored,
        trust,
    })
}

/// A sandbox's machine id. It is derived from the sandbox's id, which has 99 random bits, so that it is the same
/// however often the sandbox is stopped and started.
fn machine_id(id: &SandboxId) -> [u8; 16] {
    let digest = Sha256::digest(format!("machine id of {id}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    as_uuid(bytes)
}

/// Sets the bits of a version 4 UUID (RFC 9562), which machine-id(5) and the kernel's boot id have.
fn as_uuid(bytes: [u8; 16]) -> [u8; 16] {
    uuid::Builder::from_random_bytes(bytes).into_uuid().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_uuids_of_version_4() {
        let id = as_uuid([0xff; 16]);
        assert_eq!((id[6] >> 4, id[8] >> 6), (4, 2));
    }

    #[test]
    fn a_sandbox_keeps_its_machine_id_and_boots_with_another_boot_id() {
        let (one, other) = (SandboxId::generate(), SandboxId::generate());
        let names = |id| {
            let message = configure_message(id, Some(Activation::Another), None).expect("random bytes");
            message.identity.expect("a new one")
        };
        assert_eq!(names(&one).machine_id, names(&one).machine_id);
        assert_ne!(names(&one).machine_id, names(&other).machine_id);
        assert_ne!(names(&one).boot_id, names(&one).boot_id);
    }
}

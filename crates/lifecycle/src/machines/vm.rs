//! A running clone, and everything that has to be given back when it ends.

use super::capacity::Permit;
use super::checkpoint::{self, Header};
use super::cleanup::Cleanup;
use super::storing::Storing;
use super::{CheckpointPin, Egress, Identity, SandboxVm};
use crate::clock::now_ns;
use crate::error::{CheckpointError, LaunchError};
use async_trait::async_trait;
use leapbox_bases::Base;
use leapbox_db::{Origin, Spec, VmRecord};
use leapbox_errors::chain;
use leapbox_guest_client::GuestClient;
use leapbox_guest_protocol::{Configure, Entropy, Identity as Names, Trust};
use leapbox_ids::{ArchiveId, CheckpointId, SandboxId};
use leapbox_network::{Admission, Gatekeeper, Slot};
use leapbox_vmm::{ExitReason, Machine};
use sha2::{Digest, Sha256};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How late a guest's clock may be when it is handed over: half of what is promised.
const CLOCK_MAX_LATE: Duration = Duration::from_secs(1);
const CONFIGURE_ATTEMPTS: usize = 5;
/// What a workload has between being asked to end and being killed.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// The name of the clean-up step that removes the disk.
pub(super) const DISK: &str = "disk";

/// What a machine knows of its slot, which is on its clean-up stack.
pub(crate) struct SlotOf {
    index: u32,
    pub(super) gatekeeper: Gatekeeper,
}

impl SlotOf {
    pub(super) fn new(slot: &Slot) -> Self {
        Self { index: slot.index(), gatekeeper: slot.gatekeeper() }
    }
}

/// Whose policy a slot gets.
pub(super) fn admission(id: &SandboxId, egress: &Egress) -> Admission {
    Admission {
        sandbox: id.as_str().to_owned(),
        policy: Arc::clone(&egress.policy),
        authority: egress.authority.clone(),
    }
}

/// One clone.
pub(crate) struct Vm {
    pub machine: Arc<Machine>,
    pub guest: GuestClient,
    pub(super) slot: SlotOf,
    pub(super) disk: PathBuf,
    pub(super) origin: Origin,
    /// What its memory is a difference to, held as long as it lives; an adopted machine may have lost it.
    pub(super) base: Option<Arc<Base>>,
    pub(super) storing: Arc<Storing>,
    pub(super) cleanup: Cleanup,
    #[expect(dead_code, reason = "gives its share of the host back when it is dropped")]
    pub(super) permit: Permit,
}

impl Vm {
    /// Memory and disk that are its own, in MiB: about what storing it takes at the most.
    fn own_mib(&self) -> u64 {
        let memory = self.machine.private_bytes().unwrap_or_default();
        let disk = std::fs::metadata(&self.disk).map_or(0, |meta| meta.blocks() * 512);
        (memory + disk) >> 20
    }

    /// Lets it out as far as its policy goes.
    async fn admit(&self, id: &SandboxId, egress: &Egress) -> Result<(), LaunchError> {
        self.slot.gatekeeper.admit(admission(id, egress)).await.map_err(LaunchError::Network)
    }

    /// Tells it who it is, and which authority's certificate (PEM) it trusts besides those of its image.
    pub async fn take_identity(
        &self,
        id: &SandboxId,
        who: Identity<'_>,
        authority: Option<String>,
    ) -> Result<(), LaunchError> {
        self.configure(configure(id, Some(who), authority)?).await
    }

    async fn configure(&self, mut configure: Configure) -> Result<(), LaunchError> {
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

    async fn become_sandbox(&self, id: &SandboxId, who: Identity<'_>, egress: &Egress) -> Result<(), LaunchError> {
        let trust = egress.authority.as_ref().map(|authority| authority.certificate_pem().to_owned());
        if let Identity::New(_) = who {
            // Nothing of the workload's is in it yet: what closes the slot and what fills it need not wait for each other.
            let (admitted, told) = tokio::join!(self.admit(id, egress), self.take_identity(id, who, trust));
            return admitted.and(told);
        }
        self.admit(id, egress).await?;
        self.take_identity(id, who, trust).await
    }

    async fn go_on(&self, id: &SandboxId) -> Result<(), LaunchError> {
        self.configure(configure(id, None, None)?).await
    }

    async fn suspend(&self) -> Result<(), CheckpointError> {
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
        let Storing { archives, capacity, exports } = self.storing.as_ref();
        // Before it is written, that is: what is stored is no larger, and compresses.
        let _room = capacity.reserve_disk(self.own_mib()).map_err(CheckpointError::of_full_disk)?;
        let base = self.base.as_ref().ok_or(CheckpointError::Mismatch { what: "base (it is not there any more)" })?;
        let changes = self.machine.snapshot_diff().await.map_err(CheckpointError::Vmm)?;
        let (key, driver) = (base.snapshot.compatibility_key.clone(), self.machine.record().driver);
        let header = Header::of_memory(spec, &self.origin, key, driver);
        let stored = checkpoint::write(archives, checkpoint, header, Some(changes), self.disk.clone()).await?;
        exports.want([ArchiveId::from(&self.origin.base), ArchiveId::from(&self.origin.image)]);
        Ok(stored)
    }

    async fn shut_down(&self) {
        if let Err(error) = self.guest.shutdown(SHUTDOWN_GRACE).await {
            let machine = self.machine.record().name;
            tracing::warn!(machine, error = %chain(&error), "a guest did not shut down: its disk is as a power cut leaves it");
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

    async fn end_but_disk(mut self: Box<Self>) {
        // Lets writes on their way come to an end; one that cannot be paused is killed all the same.
        if let Err(error) = self.machine.pause().await {
            tracing::warn!(error = %chain(&error), "a machine to be ended could not be paused");
        }
        self.cleanup.skip(DISK);
        self.cleanup.run().await;
    }

    fn leave(self: Box<Self>) {
        self.cleanup.disown();
    }
}

fn configure(id: &SandboxId, who: Option<Identity<'_>>, authority: Option<String>) -> Result<Configure, LaunchError> {
    let (mut entropy, mut boot_id) = ([0; 64], [0; 16]);
    for bytes in [&mut entropy[..], &mut boot_id] {
        getrandom::fill(bytes).map_err(LaunchError::Random)?;
    }
    let names = Names { machine_id: machine_id(id), boot_id: as_uuid(boot_id) };
    let (identity, env, restored, trust) = match who {
        // Its image trusts nobody of ours.
        Some(Identity::New(environment)) => {
            (Some(names), Some(environment.to_vec()), false, authority.map(Trust::Certificate))
        }
        // What it was stored as may have trusted an authority.
        Some(Identity::Another) => (Some(names), None, true, Some(authority.map_or(Trust::None, Trust::Certificate))),
        Some(Identity::Woken) => (None, None, true, None),
        None => (None, None, false, None),
    };
    Ok(Configure {
        hostname: id.as_str().to_owned(),
        entropy: Entropy(entropy),
        wall_clock_unix_ns: 0,
        identity,
        env,
        restored,
        trust,
    })
}

/// A sandbox's machine id, the same however often it starts. Made from its id, which is as random.
fn machine_id(id: &SandboxId) -> [u8; 16] {
    let digest = Sha256::digest(format!("machine id of {id}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    as_uuid(bytes)
}

/// A UUID as random ones are (RFC 9562, version 4): machine ids and boot ids are such.
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
        let names =
            |id| configure(id, Some(Identity::Another), None).expect("random bytes").identity.expect("a new one");
        assert_eq!(names(&one).machine_id, names(&one).machine_id);
        assert_ne!(names(&one).machine_id, names(&other).machine_id);
        assert_ne!(names(&one).boot_id, names(&one).boot_id);
    }
}

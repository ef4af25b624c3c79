//! Creates a base: boots a machine until its agent answers; for a `Ready` base the agent then mounts its disks and
//! warms up (it runs once what a sandbox runs first). The machine is stopped and its memory, device state and disk are
//! sealed.

use crate::attach::{attachment, guest_of};
use crate::base::{Base, BaseKind, Header};
use crate::error::BaseError;
use crate::folder;
use crate::store::Bases;
use leapbox_errors::{FileError, chain};
use leapbox_guest_client::{GuestClient, GuestError};
use leapbox_storage::{create_pristine_disk, private_dir};
use leapbox_vmm::{BootSpec, Confinement, GuestImage, Machine, Shape, Snapshot, VmmError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long the agent's first answer may take from the VMM's start. A boot takes 3 to 6 s under emulation; the rest is
/// for a host that is busy with other guests.
const BOOT_DEADLINE: Duration = Duration::from_secs(120);
/// The name of the machine that boots, and of its directory. One machine boots at a time.
const NAME: &str = "warm";

impl Bases {
    /// Boots a machine, stops it, and seals its memory, state and disk as a base. On failure nothing of it is left.
    pub(crate) async fn create(&self, image: &GuestImage, shape: Shape, kind: BaseKind) -> Result<Base, BaseError> {
        let started = Instant::now();
        tracing::info!(%shape, ?kind, "first use of this shape: booting it once for its base");
        // Built under a name that starts with a dot, which the next start removes, and renamed when it is complete.
        let unfinished = self.dir.join(format!(".{NAME}"));
        folder::remove(&unfinished);
        private_dir(&unfinished).map_err(|source| BaseError::Folder { source })?;
        let created = match self.boot(&unfinished, image, shape, kind).await {
            Ok(snapshot) => self.seal(snapshot, unfinished.clone(), image, kind).await,
            Err(error) => Err(error),
        };
        match &created {
            Ok(base) => {
                let (id, elapsed_ms) = (base.id.as_str(), started.elapsed().as_millis() as u64);
                tracing::info!(event = "base_taken", id, %shape, ?kind, elapsed_ms, "base taken");
            }
            Err(_) => folder::remove(&unfinished),
        }
        created
    }

    /// Boots a machine whose RAM is a file in `dir`, and stops it when it is prepared.
    async fn boot(&self, dir: &Path, image: &GuestImage, shape: Shape, kind: BaseKind) -> Result<Snapshot, BaseError> {
        let disk = dir.join("disk");
        let (path, size) = (disk.clone(), self.disk_mib);
        tokio::task::spawn_blocking(move || create_pristine_disk(&path, size))
            .await
            .map_err(FileError::of("making", &disk))?
            .map_err(|source| BaseError::Disk { shape, source })?;
        // A slot like a sandbox's, because the network devices are in the snapshot. It never gets a policy, so nothing
        // that boots can reach the network.
        let slot = self.network.take().await.map_err(|source| BaseError::Network { shape, source })?;
        // The VMM runs as the slot's uid and has to write the disk.
        let given = std::os::unix::fs::chown(&disk, Some(slot.uid()), Some(slot.uid()))
            .map_err(FileError::of("giving away", &disk));
        let spec = BootSpec {
            shape,
            image: image.clone(),
            disk,
            network: attachment(&slot),
            confinement: Confinement { name: NAME.to_owned(), uid: slot.uid(), dir: dir.join("machine") },
            snapshot_dir: dir.to_path_buf(),
        };
        let booted = match given {
            Ok(()) => self.vmm.boot(spec).await.map_err(|source| BaseError::Vmm { shape, source }),
            Err(error) => Err(error.into()),
        };
        let taken = match booted {
            Ok(machine) => snapshot_when_prepared(machine, &guest_of(&slot), shape, kind).await,
            Err(error) => Err(error),
        };
        slot.close().await;
        taken
    }

    async fn seal(
        &self,
        snapshot: Snapshot,
        unfinished: PathBuf,
        image: &GuestImage,
        kind: BaseKind,
    ) -> Result<Base, BaseError> {
        let (shape, bases, from) = (snapshot.shape, self.dir.clone(), unfinished.clone());
        let header = header_of(snapshot, &unfinished, image, kind);
        tokio::task::spawn_blocking(move || folder::seal(&header, &from, &bases))
            .await
            .map_err(FileError::of("sealing", &unfinished))?
            .map_err(|reason| BaseError::seal(shape, reason))
    }
}

fn header_of(snapshot: Snapshot, unfinished: &Path, image: &GuestImage, kind: BaseKind) -> Header {
    // A driver that put a file elsewhere is an error: its path stays whole, and sealing refuses a name with a slash.
    let name = |path: &Path| path.strip_prefix(unfinished).unwrap_or(path).to_string_lossy().into_owned();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Header {
        kind,
        image: image.digest.clone(),
        taken_at_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        shape: snapshot.shape,
        memory: name(&snapshot.memory),
        state: name(&snapshot.state),
        disk: name(&snapshot.disk),
        compatibility_key: snapshot.compatibility_key,
    }
}

/// Waits until the guest is prepared for a base of this kind, and takes the snapshot.
async fn snapshot_when_prepared(
    machine: Machine,
    guest: &GuestClient,
    shape: Shape,
    kind: BaseKind,
) -> Result<Snapshot, BaseError> {
    // A VMM that dies while it boots is reported at once, and not when the agent's deadline is over.
    let prepared = tokio::select! {
        prepared = prepare(guest, kind) => prepared.map_err(Some),
        _ = machine.exited() => Err(None),
    };
    match prepared {
        Ok(()) => machine.into_base_snapshot().await.map_err(|source| BaseError::Vmm { shape, source }),
        Err(Some(source)) => {
            // A kernel that did not boot says why on its console only.
            let console = machine.console_tail().await;
            destroy(&machine).await;
            Err(BaseError::Agent { shape, console, source })
        }
        Err(None) => {
            let reason = machine.exited().await;
            destroy(&machine).await;
            Err(BaseError::Vmm { shape, source: VmmError::Died { stage: "booting", reason } })
        }
    }
}

async fn prepare(guest: &GuestClient, kind: BaseKind) -> Result<(), GuestError> {
    guest.wait_ready(BOOT_DEADLINE).await?;
    match kind {
        BaseKind::Diskless => Ok(()),
        BaseKind::Ready => {
            guest.mount().await?;
            // Under emulation the first run of any code is several times slower; what is in the page cache and in the
            // kernel's caches now is there in every clone.
            guest.warm().await?;
            // Last: it writes everything to the disk, so that disk and memory are of one moment.
            guest.prepare_snapshot().await
        }
    }
}

async fn destroy(machine: &Machine) {
    if let Err(error) = machine.destroy().await {
        tracing::warn!(error = %chain(&error), "a machine that failed to boot could not be removed");
    }
}

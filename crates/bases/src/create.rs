//! Creating a base: a machine boots, its agent answers, and for a `Ready` one mounts its disks and runs once what a
//! sandbox runs first; then the machine stops.

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

/// From the VMM's start to the agent's first answer. A boot takes seconds under emulation; a busy host needs more.
const BOOT_DEADLINE: Duration = Duration::from_secs(120);
/// The name of the machine that boots, and of its folder. There is one at a time.
const NAME: &str = "warm";

impl Bases {
    /// Boots a machine once, stops it, and seals its memory, state and disk as a base.
    pub(crate) async fn create(&self, image: &GuestImage, shape: Shape, kind: BaseKind) -> Result<Base, BaseError> {
        let started = Instant::now();
        tracing::info!(%shape, ?kind, "first use of this shape: booting it once for its warm snapshot");
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
                tracing::info!(event = "base_taken", id, %shape, ?kind, elapsed_ms, "warm snapshot taken");
            }
            Err(_) => folder::remove(&unfinished),
        }
        created
    }

    /// Boots a machine into `dir` and stops it there.
    async fn boot(&self, dir: &Path, image: &GuestImage, shape: Shape, kind: BaseKind) -> Result<Snapshot, BaseError> {
        let disk = dir.join("disk");
        let (path, size) = (disk.clone(), self.disk_mib);
        tokio::task::spawn_blocking(move || create_pristine_disk(&path, size))
            .await
            .map_err(FileError::of("making", &disk))?
            .map_err(|source| BaseError::Disk { shape, source })?;
        let slot = self.network.take().await.map_err(|source| BaseError::Network { shape, source })?;
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
    // A file that lies elsewhere keeps its path here, which is not a name that can be sealed.
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

/// Lets the guest come as far as a base of this kind is, and stops the machine.
async fn snapshot_when_prepared(
    machine: Machine,
    guest: &GuestClient,
    shape: Shape,
    kind: BaseKind,
) -> Result<Snapshot, BaseError> {
    let prepared = tokio::select! {
        prepared = prepare(guest, kind) => prepared.map_err(Some),
        _ = machine.exited() => Err(None),
    };
    match prepared {
        Ok(()) => machine.into_warm_snapshot().await.map_err(|source| BaseError::Vmm { shape, source }),
        Err(Some(source)) => {
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
        BaseKind::Bare => Ok(()),
        BaseKind::Ready => {
            guest.mount().await?;
            guest.warm().await?;
            guest.prepare_snapshot().await
        }
    }
}

async fn destroy(machine: &Machine) {
    if let Err(error) = machine.destroy().await {
        tracing::warn!(error = %chain(&error), "a machine that failed to boot could not be removed");
    }
}

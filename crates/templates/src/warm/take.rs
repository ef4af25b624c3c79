//! Taking a warm snapshot: a machine boots, its agent gets ready and runs once what a sandbox runs first, and it stops.

use super::error::file;
use super::{WarmError, WarmSnapshots, folder};
use crate::attach::{attachment, guest_of};
use leapbox_guest_client::GuestClient;
use leapbox_storage::{create_pristine_disk, private_dir};
use leapbox_vmm::{BootSpec, Confinement, GuestImage, Machine, Shape, Snapshot, VmmError};
use std::path::Path;
use std::time::{Duration, Instant};

/// From the VMM's start to the agent's first answer. A boot takes seconds under emulation; a busy host needs more.
const BOOT_DEADLINE: Duration = Duration::from_secs(120);

impl WarmSnapshots {
    /// Boots a machine once and keeps it, stopped, in `dir`, where nothing may be.
    pub(super) async fn take(
        &self,
        name: &str,
        dir: &Path,
        image: &GuestImage,
        shape: Shape,
    ) -> Result<Snapshot, WarmError> {
        let started = Instant::now();
        tracing::info!(%shape, "first use of this shape: booting it once for its warm snapshot");
        let unfinished = self.dir.join(format!(".{name}"));
        folder::remove(&unfinished);
        private_dir(&unfinished).map_err(|source| WarmError::Folder { source })?;
        let kept = match self.boot(name, &unfinished, image, shape).await {
            Ok(snapshot) => keep(snapshot, &unfinished, dir).await,
            Err(error) => Err(error),
        };
        match &kept {
            Ok(_) => tracing::info!(%shape, elapsed_ms = started.elapsed().as_millis() as u64, "warm snapshot taken"),
            Err(_) => folder::remove(&unfinished),
        }
        kept
    }

    /// Boots a machine into `dir` and stops it there.
    async fn boot(&self, name: &str, dir: &Path, image: &GuestImage, shape: Shape) -> Result<Snapshot, WarmError> {
        let disk = dir.join("disk");
        let (path, size) = (disk.clone(), self.disk_mib);
        tokio::task::spawn_blocking(move || create_pristine_disk(&path, size))
            .await
            .map_err(|e| file("making", &disk, e.into()))?
            .map_err(|source| WarmError::Disk { shape, source })?;
        let slot = self.network.take().await.map_err(|source| WarmError::Network { shape, source })?;
        let given = std::os::unix::fs::chown(&disk, Some(slot.uid()), Some(slot.uid()))
            .map_err(|source| file("giving away", &disk, source));
        let spec = BootSpec {
            shape,
            image: image.clone(),
            disk,
            network: attachment(&slot),
            confinement: Confinement {
                name: format!("warm-{}", &name[..12]),
                uid: slot.uid(),
                dir: dir.join("machine"),
            },
            snapshot_dir: dir.to_path_buf(),
        };
        let booted = match given {
            Ok(()) => self.vmm.boot(spec).await.map_err(|source| WarmError::Vmm { shape, source }),
            Err(error) => Err(error),
        };
        let taken = match booted {
            Ok(machine) => make_ready(machine, &guest_of(&slot), shape).await,
            Err(error) => Err(error),
        };
        slot.close().await;
        taken
    }
}

async fn keep(snapshot: Snapshot, unfinished: &Path, dir: &Path) -> Result<Snapshot, WarmError> {
    let (from, to, shape) = (unfinished.to_path_buf(), dir.to_path_buf(), snapshot.shape);
    tokio::task::spawn_blocking(move || folder::seal(&snapshot, &from, &to))
        .await
        .map_err(|e| file("sealing", unfinished, e.into()))?
        .map_err(|source| WarmError::Seal { shape, source })
}

/// Waits for the agent, lets it run once what a sandbox runs first, and stops the machine.
async fn make_ready(machine: Box<dyn Machine>, guest: &GuestClient, shape: Shape) -> Result<Snapshot, WarmError> {
    let ready = tokio::select! {
        ready = async {
            guest.wait_ready(BOOT_DEADLINE).await?;
            guest.warm().await?;
            guest.prepare_snapshot().await
        } => ready.map_err(Some),
        _ = machine.exited() => Err(None),
    };
    match ready {
        Ok(()) => machine.into_warm_snapshot().await.map_err(|source| WarmError::Vmm { shape, source }),
        Err(Some(source)) => {
            let console = machine.console_tail().await;
            destroy(machine.as_ref()).await;
            Err(WarmError::Agent { shape, console, source })
        }
        Err(None) => {
            let reason = machine.exited().await;
            destroy(machine.as_ref()).await;
            Err(WarmError::Vmm { shape, source: VmmError::Died { stage: "booting", reason } })
        }
    }
}

async fn destroy(machine: &dyn Machine) {
    if let Err(error) = machine.destroy().await {
        tracing::warn!(%error, "a machine that failed to boot could not be removed");
    }
}

//! Warm snapshots: one per template and shape, taken right after boot with the agent ready and before any workload.
//!
//! ```text
//! first use of a shape:  slot + pristine disk ─boot─► agent ready ─warm, sync─► snapshot ─rename─► warm/<key>/
//! every later use:       warm/<key>/ read once, then shared
//! ```
//!
//! The folder's name is the compatibility key: a new kernel, agent, image, VMM build or host CPU is a new snapshot,
//! and the old ones are removed at start. Called by `lifecycle`.

use crate::attach::{attachment, guest_of};
use leapbox_guest_client::GuestError;
use leapbox_network::{Network, NetworkError};
use leapbox_storage::{StorageError, create_pristine_disk};
use leapbox_vmm::{BootSpec, Confinement, GuestImage, Machine, Shape, Vmm, VmmError, WarmSnapshot};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, OnceCell, Semaphore};

/// From the VMM's start to the agent's first answer. A boot takes seconds under emulation; a busy host needs more.
const BOOT_DEADLINE: Duration = Duration::from_secs(120);
const MANIFEST: &str = "snapshot.json";

/// Why there is no warm snapshot.
#[derive(Debug, thiserror::Error)]
pub enum WarmError {
    /// No network for the machine that boots.
    #[error("no network for a machine of {shape}")]
    Network {
        /// The shape that was wanted.
        shape: Shape,
        /// Why not.
        #[source]
        source: NetworkError,
    },
    /// No disk.
    #[error("no disk for a machine of {shape}")]
    Disk {
        /// The shape that was wanted.
        shape: Shape,
        /// Why not.
        #[source]
        source: StorageError,
    },
    /// The VMM failed.
    #[error("booting a machine of {shape} failed")]
    Vmm {
        /// The shape that was wanted.
        shape: Shape,
        /// Why.
        #[source]
        source: VmmError,
    },
    /// The guest's agent never got ready.
    #[error("the agent in a machine of {shape} did not get ready; its console ends: {console}")]
    Agent {
        /// The shape that was wanted.
        shape: Shape,
        /// End of the guest's console.
        console: String,
        /// Why.
        #[source]
        source: GuestError,
    },
    /// A file operation failed.
    #[error("{step}: {path}")]
    File {
        /// What was done.
        step: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Snapshots kept at once. Each costs disk, and memory while the server lives, and a tenant may ask for some thirty
/// thousand shapes.
const KEPT_MAX: usize = 16;

type Cell = Arc<OnceCell<Arc<WarmSnapshot>>>;

/// One snapshot and when it was last asked for.
struct Kept {
    asked: Instant,
    cell: Cell,
}

/// All warm snapshots of one server.
pub struct WarmSnapshots {
    dir: PathBuf,
    disk_mib: u64,
    vmm: Arc<dyn Vmm>,
    network: Arc<Network>,
    by_key: Mutex<HashMap<String, Kept>>,
    /// One boot at a time: it takes seconds of a CPU that sandboxes want, too.
    boots: Semaphore,
}

impl WarmSnapshots {
    /// Snapshots kept under `dir`, of machines with a writable disk of `disk_mib` MiB. What a former server left
    /// unfinished is removed.
    pub fn open(dir: &Path, disk_mib: u64, vmm: Arc<dyn Vmm>, network: Arc<Network>) -> Result<Self, WarmError> {
        std::fs::create_dir_all(dir).map_err(|source| file("creating", dir, source))?;
        let warm =
            Self { dir: dir.to_path_buf(), disk_mib, vmm, network, by_key: Mutex::default(), boots: Semaphore::new(1) };
        for entry in std::fs::read_dir(dir).map_err(|source| file("listing", dir, source))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with('.') {
                remove(&entry.path());
            }
        }
        Ok(warm)
    }

    /// Removes the snapshots that fit none of `images` any more, and those beyond what is kept.
    pub fn remove_outdated(&self, images: &[GuestImage]) {
        let mut kept = 0;
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let fits = read(&entry.path()).is_some_and(|snapshot| {
                images.iter().any(|image| self.key(image, snapshot.shape) == entry.file_name().to_string_lossy())
            });
            if fits {
                kept += 1;
            }
            if !fits || kept > KEPT_MAX {
                remove(&entry.path());
            }
        }
    }

    /// The snapshot of `image` and `shape`, taken now if there is none. However many ask, one machine boots.
    pub async fn get(&self, image: &GuestImage, shape: Shape) -> Result<Arc<WarmSnapshot>, WarmError> {
        let key = self.key(image, shape);
        let cell = self.cell(&key).await;
        cell.get_or_try_init(|| self.find_or_take(&key, image, shape)).await.cloned()
    }

    /// The place of a snapshot. A new one may push out the one that was not asked for the longest.
    async fn cell(&self, key: &str) -> Cell {
        let mut by_key = self.by_key.lock().await;
        if !by_key.contains_key(key) && by_key.len() >= KEPT_MAX {
            self.push_out(&mut by_key).await;
        }
        let kept =
            by_key.entry(key.to_owned()).or_insert_with(|| Kept { asked: Instant::now(), cell: Cell::default() });
        kept.asked = Instant::now();
        Arc::clone(&kept.cell)
    }

    async fn push_out(&self, by_key: &mut HashMap<String, Kept>) {
        // One that is in somebody's hands is being taken or restored right now.
        let idle = |kept: &Kept| {
            Arc::strong_count(&kept.cell) == 1
                && kept.cell.get().is_none_or(|snapshot| Arc::strong_count(snapshot) == 1)
        };
        let oldest = by_key.iter().filter(|(_, kept)| idle(kept)).min_by_key(|(_, kept)| kept.asked);
        let Some(key) = oldest.map(|(key, _)| key.clone()) else { return };
        if let Some(snapshot) = by_key.remove(&key).and_then(|kept| kept.cell.get().cloned()) {
            self.vmm.forget(&snapshot).await;
        }
        remove(&self.dir.join(&key));
    }

    fn key(&self, image: &GuestImage, shape: Shape) -> String {
        self.vmm.compatibility_key(shape, image)[..32].to_owned()
    }

    async fn find_or_take(&self, key: &str, image: &GuestImage, shape: Shape) -> Result<Arc<WarmSnapshot>, WarmError> {
        let dir = self.dir.join(key);
        if let Some(snapshot) = read(&dir) {
            return Ok(Arc::new(snapshot));
        }
        // Closed by nobody.
        let _turn = self.boots.acquire().await;
        let started = Instant::now();
        tracing::info!(%shape, "first use of this shape: booting it once for its warm snapshot");
        let unfinished = self.dir.join(format!(".{key}"));
        remove(&unfinished);
        std::fs::create_dir_all(&unfinished).map_err(|source| file("creating", &unfinished, source))?;
        let taken = self.take(key, &unfinished, image, shape).await;
        let kept = taken.and_then(|snapshot| keep(snapshot, &unfinished, &dir));
        match kept {
            Ok(snapshot) => {
                tracing::info!(%shape, elapsed_ms = started.elapsed().as_millis() as u64, "warm snapshot taken");
                Ok(Arc::new(snapshot))
            }
            Err(error) => {
                remove(&unfinished);
                Err(error)
            }
        }
    }

    /// Boots a machine into `dir` and stops it there.
    async fn take(&self, key: &str, dir: &Path, image: &GuestImage, shape: Shape) -> Result<WarmSnapshot, WarmError> {
        let disk = dir.join("disk");
        let (path, size) = (disk.clone(), self.disk_mib);
        tokio::task::spawn_blocking(move || create_pristine_disk(&path, size))
            .await
            .map_err(|e| file("making", &disk, e.into()))?
            .map_err(|source| WarmError::Disk { shape, source })?;
        let slot = self.network.take().await.map_err(|source| WarmError::Network { shape, source })?;
        std::os::unix::fs::chown(&disk, Some(slot.uid()), Some(slot.uid()))
            .map_err(|source| file("giving away", &disk, source))?;
        let spec = BootSpec {
            shape,
            image: image.clone(),
            disk,
            network: attachment(&slot),
            confinement: Confinement {
                name: format!("warm-{}", &key[..12]),
                uid: slot.uid(),
                dir: dir.join("machine"),
            },
            snapshot_dir: dir.to_path_buf(),
        };
        let booted = self.vmm.boot(spec).await.map_err(|source| WarmError::Vmm { shape, source });
        let taken = match booted {
            Ok(machine) => make_ready(machine, &guest_of(&slot), shape).await,
            Err(error) => Err(error),
        };
        slot.close().await;
        taken
    }
}

/// Waits for the agent, lets it run once what a sandbox runs first, and stops the machine.
async fn make_ready(
    machine: Box<dyn Machine>,
    guest: &leapbox_guest_client::GuestClient,
    shape: Shape,
) -> Result<WarmSnapshot, WarmError> {
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

/// Moves a finished snapshot into place. The manifest is written last and the folder renamed, so that a folder under
/// its final name is complete.
fn keep(snapshot: WarmSnapshot, unfinished: &Path, dir: &Path) -> Result<WarmSnapshot, WarmError> {
    let moved = |path: &Path| dir.join(path.strip_prefix(unfinished).unwrap_or(path));
    let snapshot = WarmSnapshot {
        memory: moved(&snapshot.memory),
        state: moved(&snapshot.state),
        disk: moved(&snapshot.disk),
        ..snapshot
    };
    let manifest = unfinished.join(MANIFEST);
    let text = serde_json::to_vec_pretty(&snapshot).map_err(|e| file("encoding", &manifest, e.into()))?;
    std::fs::write(&manifest, text).map_err(|source| file("writing", &manifest, source))?;
    let sync = |path: &Path| std::fs::File::open(path).and_then(|f| f.sync_all());
    sync(&manifest).map_err(|source| file("writing to disk", &manifest, source))?;
    std::fs::rename(unfinished, dir).map_err(|source| file("moving into place", dir, source))?;
    let parent = dir.parent().unwrap_or(dir);
    sync(parent).map_err(|source| file("writing to disk", parent, source))?;
    Ok(snapshot)
}

fn read(dir: &Path) -> Option<WarmSnapshot> {
    let text = std::fs::read(dir.join(MANIFEST)).ok()?;
    let snapshot: WarmSnapshot = serde_json::from_slice(&text).ok()?;
    let here = |path: &Path| path.parent() == Some(dir) && path.exists();
    (here(&snapshot.memory) && here(&snapshot.state) && here(&snapshot.disk)).then_some(snapshot)
}

fn remove(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), %error, "an outdated snapshot could not be removed");
    }
}

fn file(step: &'static str, path: &Path, source: std::io::Error) -> WarmError {
    WarmError::File { step, path: path.to_path_buf(), source }
}

//! Warm snapshots: one per template and shape, taken right after boot with the agent ready and before any workload.
//!
//! ```text
//! first use of a shape:            slot + pristine disk ─boot─► agent ready ─warm, sync─► snapshot ─seal─► warm/<key>/
//! first use in a server's life:    warm/<key>/ ─verify─► sound: shared from then on
//!                                                └─► damaged, foreign: refused, removed, and taken as above
//! every later use:                 shared
//! ```
//!
//! The folder's name is the compatibility key: a new kernel, agent, image, VMM build or host CPU is a new snapshot,
//! and the old ones are removed at start. A snapshot is trusted input to a VMM, so its folder is the server's alone and
//! its contents are verified once; a running server keeps the verdict, because nobody else can write there. Called by
//! `lifecycle`.

mod error;
mod folder;
mod take;

pub use error::WarmError;

use error::file;
use leapbox_network::Network;
use leapbox_storage::private_dir;
use leapbox_vmm::{GuestImage, Shape, Snapshot, Vmm};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Mutex, OnceCell, Semaphore};

/// Snapshots kept at once. Each costs disk, and memory while the server lives, and a tenant may ask for some thirty
/// thousand shapes.
const KEPT_MAX: usize = 16;

type Cell = Arc<OnceCell<Arc<Snapshot>>>;

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
    /// By the name of the folder.
    by_name: Mutex<HashMap<String, Kept>>,
    /// One boot at a time: it takes seconds of a CPU that sandboxes want, too.
    boots: Semaphore,
}

impl WarmSnapshots {
    /// Snapshots kept under `dir` (0700, the server's alone), of machines with a writable disk of `disk_mib` MiB. What
    /// a former server left unfinished is removed.
    pub fn open(dir: &Path, disk_mib: u64, vmm: Arc<dyn Vmm>, network: Arc<Network>) -> Result<Self, WarmError> {
        private_dir(dir).map_err(|source| WarmError::Folder { source })?;
        for entry in std::fs::read_dir(dir).map_err(|source| file("listing", dir, source))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with('.') {
                folder::remove(&entry.path());
            }
        }
        let (by_name, boots) = (Mutex::default(), Semaphore::new(1));
        Ok(Self { dir: dir.to_path_buf(), disk_mib, vmm, network, by_name, boots })
    }

    /// What the manifests in `dir` say, their data unverified: for whoever looks at another server's snapshots.
    pub fn stored(dir: &Path) -> Vec<Snapshot> {
        std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| folder::stored(&entry.path()))
            .collect()
    }

    /// Removes the snapshots that fit none of `images` any more, those that are refused by their manifest, and those
    /// beyond what is kept.
    pub fn remove_outdated(&self, images: &[GuestImage]) {
        let mut kept = 0;
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let fits = |snapshot: &Snapshot| {
                let key_with = |image| self.vmm.compatibility_key(snapshot.shape, image);
                images.iter().any(|image| key_with(image) == snapshot.compatibility_key)
            };
            kept += usize::from(folder::keep_if(&entry.path(), fits));
            if kept > KEPT_MAX {
                folder::remove(&entry.path());
            }
        }
    }

    /// The snapshot of `image` and `shape`, taken now if there is none that is sound. However many ask, one machine
    /// boots.
    pub async fn get(&self, image: &GuestImage, shape: Shape) -> Result<Arc<Snapshot>, WarmError> {
        let key = self.vmm.compatibility_key(shape, image);
        let cell = self.cell(folder::name_of(&key)).await;
        cell.get_or_try_init(|| self.find_or_take(&key, image, shape)).await.cloned()
    }

    /// The place of a snapshot. A new one may push out the one that was not asked for the longest.
    async fn cell(&self, name: &str) -> Cell {
        let mut by_name = self.by_name.lock().await;
        if !by_name.contains_key(name) && by_name.len() >= KEPT_MAX {
            self.push_out(&mut by_name).await;
        }
        let kept =
            by_name.entry(name.to_owned()).or_insert_with(|| Kept { asked: Instant::now(), cell: Cell::default() });
        kept.asked = Instant::now();
        Arc::clone(&kept.cell)
    }

    async fn push_out(&self, by_name: &mut HashMap<String, Kept>) {
        // One that is in somebody's hands is being taken or restored right now.
        let idle = |kept: &Kept| {
            Arc::strong_count(&kept.cell) == 1
                && kept.cell.get().is_none_or(|snapshot| Arc::strong_count(snapshot) == 1)
        };
        let oldest = by_name.iter().filter(|(_, kept)| idle(kept)).min_by_key(|(_, kept)| kept.asked);
        let Some(name) = oldest.map(|(name, _)| name.clone()) else { return };
        if let Some(snapshot) = by_name.remove(&name).and_then(|kept| kept.cell.get().cloned()) {
            self.vmm.forget(&snapshot).await;
        }
        folder::remove(&self.dir.join(&name));
    }

    async fn find_or_take(&self, key: &str, image: &GuestImage, shape: Shape) -> Result<Arc<Snapshot>, WarmError> {
        let name = folder::name_of(key);
        let dir = self.dir.join(name);
        let (place, wanted) = (dir.clone(), key.to_owned());
        let found = tokio::task::spawn_blocking(move || folder::find(&place, &wanted))
            .await
            .map_err(|e| file("verifying", &dir, e.into()))?;
        if let Some(snapshot) = found {
            return Ok(Arc::new(snapshot));
        }
        // Closed by nobody.
        let _turn = self.boots.acquire().await;
        self.take(name, &dir, image, shape).await.map(Arc::new)
    }
}

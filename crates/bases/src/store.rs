//! The bases of a server: finds them, creates missing ones, verifies each once, and removes those that nothing needs.
//! The entry point of this crate.

use crate::base::{Base, BaseKind};
use crate::error::BaseError;
use crate::folder;
use crate::index::{BaseIndex, Found};
use leapbox_errors::FileError;
use leapbox_ids::{ArchiveId, BaseId};
use leapbox_network::Network;
use leapbox_storage::private_dir;
use leapbox_vmm::{GuestImage, Shape, Vmm};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// The bases of one server, in one directory.
pub struct Bases {
    pub(crate) dir: PathBuf,
    pub(crate) disk_mib: u64,
    pub(crate) vmm: Arc<dyn Vmm>,
    pub(crate) network: Arc<Network>,
    index: Mutex<BaseIndex>,
    /// Held while a machine boots. One at a time, because a boot takes seconds of CPU time that running sandboxes need.
    boots: tokio::sync::Mutex<()>,
    /// Held while a base is imported. One at a time, because two imports of the same base would write the same files.
    pub(crate) imports: tokio::sync::Mutex<()>,
}

impl Bases {
    /// Opens the bases in `dir` (0700, the server's alone), of machines with a writable disk of `disk_mib` MiB. Removes
    /// what the previous server left unfinished, and bases whose manifest is damaged. Blocking.
    pub fn open(dir: &Path, disk_mib: u64, vmm: Arc<dyn Vmm>, network: Arc<Network>) -> Result<Self, BaseError> {
        private_dir(dir).map_err(|source| BaseError::Folder { source })?;
        let mut index = BaseIndex::default();
        for entry in std::fs::read_dir(dir).map_err(FileError::of("listing", dir))?.flatten() {
            let path = entry.path();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if !is_folder || entry.file_name().to_string_lossy().starts_with('.') {
                folder::remove(&path);
                continue;
            }
            match folder::read(&path) {
                // Its data is verified at its first use: reading some hundred MiB of each would delay the start.
                Ok(base) => index.insert(Arc::new(base), false),
                Err(reason) => {
                    folder::log_refused(&path, &reason);
                    if reason.is_damage() {
                        folder::remove(&path);
                    }
                }
            }
        }
        let (index, boots, imports) = (Mutex::new(index), tokio::sync::Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self { dir: dir.to_path_buf(), disk_mib, vmm, network, index, boots, imports })
    }

    /// The bases in `dir` as their manifests describe them, oldest first. Nothing is verified or removed: this is for
    /// programs that look at the directory of a running server.
    pub fn stored(dir: &Path) -> Vec<Base> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut bases: Vec<Base> = entries.filter_map(|entry| folder::read(&entry.path()).ok()).collect();
        bases.sort_by_key(|base| base.taken_at_ms);
        bases
    }

    /// The current base of `image`, `shape` and `kind`, created now if there is no sound one. However many callers ask
    /// at once, one machine boots.
    pub async fn get(&self, image: &GuestImage, shape: Shape, kind: BaseKind) -> Result<Arc<Base>, BaseError> {
        let key = self.vmm.compatibility_key(shape, image);
        if let Some(base) = self.current(&key, kind).await? {
            return Ok(base);
        }
        let _permit = self.boots.lock().await;
        // The caller that held the lock before may have created the same base.
        if let Some(base) = self.current(&key, kind).await? {
            return Ok(base);
        }
        let base = Arc::new(self.create(image, shape, kind).await?);
        self.index().insert(Arc::clone(&base), true);
        Ok(base)
    }

    /// The base of this id, whatever it fits; `None` if it is not there, or is damaged.
    pub async fn by_id(&self, id: &BaseId) -> Result<Option<Arc<Base>>, BaseError> {
        let found = self.index().by_id(id);
        match found {
            Some(found) => self.sound(found).await,
            None => Ok(None),
        }
    }

    /// Whether there are more bases than are kept without a reference, so that [`Bases::evict`] should be called.
    pub fn is_crowded(&self) -> bool {
        self.index().is_crowded()
    }

    /// Removes the bases that are neither `referenced` nor in use and that are not needed: made for none of `images` or
    /// for another VMM or CPU, superseded by a newer one, or beyond the number that is kept.
    pub async fn evict(&self, images: &[GuestImage], referenced: &BTreeSet<ArchiveId>) {
        let fits = |base: &Base| {
            let key_with = |image| self.vmm.compatibility_key(base.snapshot.shape, image);
            images.iter().any(|image| key_with(image) == base.snapshot.compatibility_key)
        };
        let gone: Vec<(Arc<Base>, PathBuf)> = {
            // Renamed under the index's lock: a base that is created or imported after this finds its name free.
            let mut index = self.index();
            let gone = index.remove_surplus(fits, referenced).into_iter();
            gone.map(|base| (Arc::clone(&base), folder::set_aside(&self.dir.join(base.id.as_str())))).collect()
        };
        for (base, aside) in gone {
            let (id, shape, key) = (base.id.as_str(), base.snapshot.shape, &base.snapshot.compatibility_key);
            tracing::info!(id, %shape, key, "removing a base that nothing needs any more");
            self.remove(&base, aside).await;
        }
    }

    /// The newest sound base of a key and kind.
    async fn current(&self, key: &str, kind: BaseKind) -> Result<Option<Arc<Base>>, BaseError> {
        loop {
            let newest = self.index().newest(key, kind);
            let Some(found) = newest else { return Ok(None) };
            // A damaged one has been removed: the next round finds the one before it.
            if let Some(base) = self.sound(found).await? {
                return Ok(Some(base));
            }
        }
    }

    /// Verifies the base if that has not been done yet. A damaged one is removed (`None`).
    async fn sound(&self, found: Found) -> Result<Option<Arc<Base>>, BaseError> {
        let Found { base, verified } = found;
        let dir = self.dir.join(base.id.as_str());
        // All that ask meanwhile wait for one verification. An error leaves the cell empty, so that the next one tries
        // again.
        match verified.get_or_try_init(|| verify(&base, &dir)).await {
            Ok(()) => return Ok(Some(base)),
            Err(Unsound::Interrupted(source)) => return Err(FileError::of("verifying", &dir)(source).into()),
            // It may be sound and only unreadable just now, so it is kept, and this request fails.
            Err(Unsound::Refused(reason)) if !reason.is_damage() => {
                let source = std::io::Error::other(reason);
                return Err(FileError::of("verifying", &dir)(source).into());
            }
            Err(Unsound::Refused(reason)) => folder::log_refused(&dir, &reason),
        }
        let aside = {
            let mut index = self.index();
            index.remove(&base).then(|| folder::set_aside(&dir))
        };
        if let Some(aside) = aside {
            self.remove(&base, aside).await;
        }
        Ok(None)
    }

    async fn remove(&self, base: &Base, dir: PathBuf) {
        // Under QEMU the driver keeps the RAM of bases in memory.
        self.vmm.forget(&base.snapshot).await;
        // A failure is logged by `remove`.
        let _ = tokio::task::spawn_blocking(move || folder::remove(&dir)).await;
    }

    pub(crate) fn index(&self) -> MutexGuard<'_, BaseIndex> {
        self.index.lock()
    }
}

enum Unsound {
    Refused(folder::Refused),
    Interrupted(std::io::Error),
}

/// Reads all of a base's data and compares it with the manifest.
async fn verify(base: &Base, dir: &Path) -> Result<(), Unsound> {
    let (started, place) = (Instant::now(), dir.to_path_buf());
    let verified = tokio::task::spawn_blocking(move || folder::verify(&place)).await;
    verified.map_err(|error| Unsound::Interrupted(error.into()))?.map_err(Unsound::Refused)?;
    let elapsed_ms = started.elapsed().as_millis() as u64;
    let (id, shape) = (base.id.as_str(), base.snapshot.shape);
    tracing::info!(event = "base_verified", id, %shape, elapsed_ms, "the stored base is sound");
    Ok(())
}

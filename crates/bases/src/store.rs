//! The store of bases: finds them, creates the missing, verifies each once, and removes what nothing needs.

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

/// All bases of one server.
pub struct Bases {
    pub(crate) dir: PathBuf,
    pub(crate) disk_mib: u64,
    pub(crate) vmm: Arc<dyn Vmm>,
    pub(crate) network: Arc<Network>,
    index: Mutex<BaseIndex>,
    /// One boot at a time: it takes seconds of a CPU that sandboxes want, too.
    boots: tokio::sync::Mutex<()>,
    /// One import at a time: two of the same would be in each other's way.
    pub(crate) imports: tokio::sync::Mutex<()>,
}

impl Bases {
    /// Bases kept under `dir` (0700, the server's alone), of machines with a writable disk of `disk_mib` MiB. What a
    /// former server left unfinished is removed, and so is what is refused by its manifest.
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

    /// What the manifests in `dir` say, their data unverified, oldest first: for whoever looks at another server's
    /// bases.
    pub fn stored(dir: &Path) -> Vec<Base> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut bases: Vec<Base> = entries.filter_map(|entry| folder::read(&entry.path()).ok()).collect();
        bases.sort_by_key(|base| base.taken_at_ms);
        bases
    }

    /// The current base of `image`, `shape` and `kind`, created now if there is none that is sound. However many ask,
    /// one machine boots.
    pub async fn get(&self, image: &GuestImage, shape: Shape, kind: BaseKind) -> Result<Arc<Base>, BaseError> {
        let key = self.vmm.compatibility_key(shape, image);
        if let Some(base) = self.current(&key, kind).await? {
            return Ok(base);
        }
        let _turn = self.boots.lock().await;
        // Whoever had the turn before may have wanted the same.
        if let Some(base) = self.current(&key, kind).await? {
            return Ok(base);
        }
        let base = Arc::new(self.create(image, shape, kind).await?);
        self.index().insert(Arc::clone(&base), true);
        Ok(base)
    }

    /// The base of this id, whatever it fits; none if it is not there, or not sound any more.
    pub async fn by_id(&self, id: &BaseId) -> Result<Option<Arc<Base>>, BaseError> {
        let found = self.index().by_id(id);
        match found {
            Some(found) => self.sound(found).await,
            None => Ok(None),
        }
    }

    /// There are more bases than are kept unless something refers to them: time to [`Bases::evict`].
    pub fn is_crowded(&self) -> bool {
        self.index().is_crowded()
    }

    /// Removes the bases that are neither `referenced` nor in use and that nobody will ask for: made for none of
    /// `images` or for another VMM or CPU, superseded by a newer one, or beyond the number that is kept.
    pub async fn evict(&self, images: &[GuestImage], referenced: &BTreeSet<ArchiveId>) {
        let fits = |base: &Base| {
            let key_with = |image| self.vmm.compatibility_key(base.snapshot.shape, image);
            images.iter().any(|image| key_with(image) == base.snapshot.compatibility_key)
        };
        let gone: Vec<(Arc<Base>, PathBuf)> = {
            // Out of sight before anybody can look for it again.
            let mut index = self.index();
            let gone = index.remove_surplus(fits, referenced).into_iter();
            gone.map(|base| (Arc::clone(&base), folder::set_aside(&self.dir.join(base.id.as_str())))).collect()
        };
        for (base, aside) in gone {
            let (id, shape, key) = (base.id.as_str(), base.snapshot.shape, &base.snapshot.compatibility_key);
            tracing::info!(id, %shape, key, "removing a warm snapshot that nothing needs any more");
            self.remove(&base, aside).await;
        }
    }

    async fn current(&self, key: &str, kind: BaseKind) -> Result<Option<Arc<Base>>, BaseError> {
        loop {
            let newest = self.index().newest(key, kind);
            let Some(found) = newest else { return Ok(None) };
            if let Some(base) = self.sound(found).await? {
                return Ok(Some(base));
            }
        }
    }

    /// The base, if it is as it was sealed; one that is not is removed.
    async fn sound(&self, found: Found) -> Result<Option<Arc<Base>>, BaseError> {
        let Found { base, verified } = found;
        let dir = self.dir.join(base.id.as_str());
        match verified.get_or_try_init(|| verify(&base, &dir)).await {
            Ok(()) => return Ok(Some(base)),
            Err(Unsound::Interrupted(source)) => return Err(FileError::of("verifying", &dir)(source).into()),
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
        self.vmm.forget(&base.snapshot).await;
        // What fails is logged there.
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

/// Reads all of a base's data.
async fn verify(base: &Base, dir: &Path) -> Result<(), Unsound> {
    let (started, place) = (Instant::now(), dir.to_path_buf());
    let verified = tokio::task::spawn_blocking(move || folder::verify(&place)).await;
    verified.map_err(|error| Unsound::Interrupted(error.into()))?.map_err(Unsound::Refused)?;
    let elapsed_ms = started.elapsed().as_millis() as u64;
    let (id, shape) = (base.id.as_str(), base.snapshot.shape);
    tracing::info!(event = "base_verified", id, %shape, elapsed_ms, "the stored warm snapshot is sound");
    Ok(())
}

//! Where artifacts are built: one builder at a time, nothing visible before it is complete.
//!
//! ```text
//! lock ─► tmp/<name>/ is filled ─► syncfs ─► rename to its final place ─► current.json replaced
//! ```
//!
//! A builder that dies leaves only files in `tmp/`; the next one removes them and starts that step again.

use super::images;
use super::manifest::{Manifest, StoredArtifact};
use crate::error::ArtifactError;
use leapbox_errors::FileError;
use leapbox_storage::digest;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Digits of an artifact's digest that name its folder.
const FOLDER_DIGITS: usize = 12;

/// The right to build in an artifacts folder.
#[derive(Debug)]
pub struct Workshop {
    dir: PathBuf,
    manifest: Manifest,
    /// Held until the workshop is dropped; the kernel releases it when the process dies.
    _lock: File,
}

impl Workshop {
    /// Makes the folder when it is missing, waits for another builder to finish (`waiting` is called once if there
    /// is one), and clears away what an interrupted one has left.
    pub fn open(dir: &Path, waiting: impl FnOnce()) -> Result<Self, ArtifactError> {
        std::fs::create_dir_all(dir).map_err(FileError::of("create the artifacts folder", dir))?;
        let dir = dir.canonicalize().map_err(FileError::of("open the artifacts folder", dir))?;
        let lock = lock(&dir.join("lock"), waiting)?;
        let manifest = match Manifest::read(&dir) {
            Ok(manifest) => manifest.unwrap_or_default(),
            // Written by another version: everything in use is built anew, and nothing old is touched.
            Err(ArtifactError::Format { .. }) => Manifest::default(),
            Err(error) => return Err(error),
        };
        let workshop = Self { dir, manifest, _lock: lock };
        remove_tree(&workshop.dir.join("tmp"))?;
        // What a former version has put into use may go out of use now.
        images::remember_all(&workshop.manifest, &workshop.dir)?;
        Ok(workshop)
    }

    /// The artifacts folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is in use now.
    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// A new empty folder to build in, on the same file system as the artifacts.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf, ArtifactError> {
        let path = self.dir.join("tmp").join(name);
        remove_tree(&path)?;
        std::fs::create_dir_all(&path).map_err(FileError::of("create a folder to build in", &path))?;
        Ok(path)
    }

    /// True when `stored` was made from the same inputs and is still there in full length.
    pub(crate) fn is_current(&self, stored: Option<&StoredArtifact>, inputs: &str) -> bool {
        stored.is_some_and(|s| s.inputs == inputs && s.checked_file(&self.dir).is_ok())
    }

    /// Moves a finished folder to `<kind>/<prefix><digest of its main file>`, durably.
    pub(crate) fn publish(&self, built: &Path, new: NewArtifact<'_>) -> Result<StoredArtifact, ArtifactError> {
        let main = built.join(new.file);
        let sha256 = digest::of_file(&main).map(hex::encode).map_err(FileError::of("read what was built", &main))?;
        let bytes = std::fs::metadata(&main).map_err(FileError::of("look at what was built", &main))?.len();
        let dir = Path::new(new.kind).join(format!("{}{}", new.prefix, &sha256[..FOLDER_DIGITS]));
        let stored = StoredArtifact { dir, file: new.file.to_owned(), sha256, bytes, inputs: new.inputs.to_owned() };
        let target = self.dir.join(&stored.dir);
        sync_file_system(built)?;
        // What lies there already has the same name and so the same content, unless it is damaged: then it goes.
        if stored.verify(&self.dir).is_err() {
            self.put(built, &target)?;
        }
        Ok(stored)
    }

    fn put(&self, built: &Path, target: &Path) -> Result<(), ArtifactError> {
        let parent = target.parent().unwrap_or(&self.dir);
        std::fs::create_dir_all(parent).map_err(FileError::of("create", parent))?;
        if target.exists() {
            let damaged = self.scratch("damaged")?.join("artifact");
            std::fs::rename(target, &damaged).map_err(FileError::of("set a damaged artifact aside", target))?;
        }
        std::fs::rename(built, target).map_err(FileError::of("publish", target))?;
        sync_file_system(parent)
    }

    /// Puts finished artifacts into use.
    pub(crate) fn record(&mut self, change: impl FnOnce(&mut Manifest)) -> Result<(), ArtifactError> {
        let mut manifest = self.manifest.clone();
        change(&mut manifest);
        // Before it can be in use: what is stored may name it from then on.
        images::remember_all(&manifest, &self.dir)?;
        manifest.write(&self.dir)?;
        self.manifest = manifest;
        Ok(())
    }

    /// Removes a folder made by [`Workshop::scratch`] once its result is published.
    pub(crate) fn clear(&self, scratch: &Path) -> Result<(), ArtifactError> {
        remove_tree(scratch)
    }
}

/// Where a finished folder goes.
pub(crate) struct NewArtifact<'a> {
    /// `kernel`, `initramfs`, `rootfs`.
    pub kind: &'static str,
    /// What precedes the digest in its folder's name.
    pub prefix: &'a str,
    /// Its main file.
    pub file: &'static str,
    /// Digest of what it was made from.
    pub inputs: &'a str,
}

fn lock(path: &Path, waiting: impl FnOnce()) -> Result<File, ArtifactError> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(FileError::of("open the builders' lock", path))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => waiting(),
        Err(TryLockError::Error(source)) => return Err(FileError::of("lock", path)(source).into()),
    }
    file.lock().map_err(FileError::of("wait for the builders' lock", path))?;
    Ok(file)
}

fn sync_file_system(path: &Path) -> Result<(), ArtifactError> {
    let sync = || -> std::io::Result<()> { Ok(nix::unistd::syncfs(File::open(path)?)?) };
    Ok(sync().map_err(FileError::of("write to the disk", path))?)
}

/// Removes a folder and all in it. Processes of an interrupted builder may take a moment to die, and may still
/// write into it meanwhile: so it tries again.
fn remove_tree(path: &Path) -> Result<(), ArtifactError> {
    const TRIES: u32 = 20;
    for attempt in 1.. {
        match std::fs::remove_dir_all(path) {
            Ok(()) => break,
            Err(e) if e.kind() == ErrorKind::NotFound => break,
            Err(e) if attempt == TRIES => return Err(FileError::of("remove an unfinished build", path)(e).into()),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
    Ok(())
}

//! Builds artifacts: one builder at a time, and nothing is visible before it is complete.
//!
//! ```text
//! lock ─► tmp/<name>/ is filled ─► syncfs ─► rename to its final place ─► current.json replaced
//! ```
//!
//! A builder that dies leaves files in `tmp/` only; the next one removes them and repeats the step.

use super::images;
use super::manifest::{Manifest, StoredArtifact};
use crate::error::ArtifactError;
use leapbox_errors::FileError;
use leapbox_storage::digest;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The number of digits of an artifact's digest in its directory's name.
// 48 bits are enough to tell the few artifacts of a host apart; the whole digest is in `current.json`.
const FOLDER_DIGITS: usize = 12;

/// The only process that builds in an artifacts directory.
#[derive(Debug)]
pub struct ArtifactBuilder {
    dir: PathBuf,
    manifest: Manifest,
    /// Locked until the builder is dropped, or until the process dies, when the kernel releases it.
    _lock: File,
}

impl ArtifactBuilder {
    /// Creates the directory if it is missing, waits for another builder to finish (`waiting` is called once if there
    /// is one), and removes what an interrupted one has left.
    pub fn open(dir: &Path, waiting: impl FnOnce()) -> Result<Self, ArtifactError> {
        std::fs::create_dir_all(dir).map_err(FileError::of("creating the artifacts directory", dir))?;
        let dir = dir.canonicalize().map_err(FileError::of("opening the artifacts directory", dir))?;
        let lock = lock(&dir.join("lock"), waiting)?;
        let manifest = match Manifest::read(&dir) {
            Ok(manifest) => manifest.unwrap_or_default(),
            // Written by another version, which may be the one that serves: everything is built anew, and its artifacts
            // stay where they are.
            Err(ArtifactError::Format { .. }) => Manifest::default(),
            Err(error) => return Err(error),
        };
        let builder = Self { dir, manifest, _lock: lock };
        remove_tree(&builder.dir.join("tmp"))?;
        // An image that an earlier version has put into use without registering it may go out of use now.
        images::register_all(&builder.manifest, &builder.dir)?;
        Ok(builder)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Creates an empty directory to build in.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf, ArtifactError> {
        // Inside of the artifacts directory, so that the result can be renamed to its place.
        let path = self.dir.join("tmp").join(name);
        remove_tree(&path)?;
        std::fs::create_dir_all(&path).map_err(FileError::of("creating a directory to build in", &path))?;
        Ok(path)
    }

    /// Whether `stored` was built from the same inputs and its file is still there in full length.
    pub(crate) fn is_current(&self, stored: Option<&StoredArtifact>, inputs: &str) -> bool {
        stored.is_some_and(|s| s.inputs == inputs && s.checked_file(&self.dir).is_ok())
    }

    /// Moves a finished directory to `<kind>/<prefix><digest of its main file>`, durably.
    pub(crate) fn publish(&self, built: &Path, new: NewArtifact<'_>) -> Result<StoredArtifact, ArtifactError> {
        let main = built.join(new.file);
        let sha256 = digest::of_file(&main).map(hex::encode).map_err(FileError::of("reading what was built", &main))?;
        let bytes = std::fs::metadata(&main).map_err(FileError::of("looking at what was built", &main))?.len();
        let dir = Path::new(new.kind).join(format!("{}{}", new.prefix, &sha256[..FOLDER_DIGITS]));
        let stored = StoredArtifact { dir, file: new.file.to_owned(), sha256, bytes, inputs: new.inputs.to_owned() };
        let target = self.dir.join(&stored.dir);
        sync_file_system(built)?;
        // An artifact that is there already has the same name and so the same content, and may be in use. Only a
        // damaged one is replaced.
        if stored.verify(&self.dir).is_err() {
            self.put(built, &target)?;
        }
        Ok(stored)
    }

    fn put(&self, built: &Path, target: &Path) -> Result<(), ArtifactError> {
        let parent = target.parent().unwrap_or(&self.dir);
        std::fs::create_dir_all(parent).map_err(FileError::of("creating", parent))?;
        if target.exists() {
            // A directory cannot be renamed over one that is not empty. Moved aside it is removed with `tmp/`.
            let damaged = self.scratch("damaged")?.join("artifact");
            std::fs::rename(target, &damaged).map_err(FileError::of("setting a damaged artifact aside", target))?;
        }
        std::fs::rename(built, target).map_err(FileError::of("publishing", target))?;
        sync_file_system(parent)
    }

    /// Puts published artifacts into use: changes the manifest and writes it to `current.json`.
    pub(crate) fn record(&mut self, change: impl FnOnce(&mut Manifest)) -> Result<(), ArtifactError> {
        let mut manifest = self.manifest.clone();
        change(&mut manifest);
        // Registered before it is in use, because from then on a checkpoint may name the image.
        images::register_all(&manifest, &self.dir)?;
        manifest.write(&self.dir)?;
        self.manifest = manifest;
        Ok(())
    }

    /// Removes a directory of [`ArtifactBuilder::scratch`] once its result is published.
    pub(crate) fn clear(&self, scratch: &Path) -> Result<(), ArtifactError> {
        remove_tree(scratch)
    }
}

/// A finished directory that is to be published.
pub(crate) struct NewArtifact<'a> {
    /// The directory above it: `kernel`, `initramfs` or `rootfs`.
    pub kind: &'static str,
    /// Precedes the digest in the directory's name.
    pub prefix: &'a str,
    /// The name of its main file, whose digest names the directory.
    pub file: &'static str,
    /// The digest of everything that it was built from.
    pub inputs: &'a str,
}

fn lock(path: &Path, waiting: impl FnOnce()) -> Result<File, ArtifactError> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(FileError::of("opening the builders' lock", path))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => waiting(),
        Err(TryLockError::Error(source)) => return Err(FileError::of("locking", path)(source).into()),
    }
    file.lock().map_err(FileError::of("waiting for the builders' lock", path))?;
    Ok(file)
}

fn sync_file_system(path: &Path) -> Result<(), ArtifactError> {
    // One syncfs(2) and not an fsync per file: the directory of a kernel has hundreds of modules.
    let sync = || -> std::io::Result<()> { Ok(nix::unistd::syncfs(File::open(path)?)?) };
    Ok(sync().map_err(FileError::of("writing to disk", path))?)
}

/// Removes a directory and everything in it.
fn remove_tree(path: &Path) -> Result<(), ArtifactError> {
    // Processes of an interrupted builder may take a moment to die and may write into it meanwhile, so that it is not
    // empty when it is to be removed. They get two seconds.
    const TRIES: u32 = 20;
    for attempt in 1.. {
        match std::fs::remove_dir_all(path) {
            Ok(()) => break,
            Err(e) if e.kind() == ErrorKind::NotFound => break,
            Err(e) if attempt == TRIES => return Err(FileError::of("removing an unfinished build", path)(e).into()),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
    Ok(())
}

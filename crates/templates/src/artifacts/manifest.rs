//! `current.json`: which artifacts are in use.

use crate::error::ArtifactError;
use leapbox_errors::FileError;
use leapbox_storage::digest;
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const FILE: &str = "current.json";
/// Grows when the meaning of `current.json` changes.
const FORMAT: u32 = 1;
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// One artifact: a folder with one main file, and what it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredArtifact {
    /// Its folder, relative to the artifacts folder.
    pub dir: PathBuf,
    /// Its main file in there.
    pub file: String,
    /// SHA-256 of the main file.
    pub sha256: String,
    /// Length of the main file.
    pub bytes: u64,
    /// Digest of everything it was made from: equal inputs need no rebuild.
    pub inputs: String,
}

/// The guest kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelArtifact {
    /// `uname -r` in the guest.
    pub version: String,
    /// Debian package and version it comes from.
    pub package: String,
    /// Where it is.
    #[serde(flatten)]
    pub stored: StoredArtifact,
}

/// Everything in use. Parts are missing while set-up has not got that far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// The guest kernel of all templates.
    pub kernel: Option<KernelArtifact>,
    /// The initramfs of all templates.
    pub initramfs: Option<StoredArtifact>,
    /// Root file systems by template name.
    pub templates: BTreeMap<String, StoredArtifact>,
}

impl Default for Manifest {
    fn default() -> Self {
        Self { format: FORMAT, kernel: None, initramfs: None, templates: BTreeMap::new() }
    }
}

impl Manifest {
    /// Reads it; `None` when there is none yet.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, ArtifactError> {
        let path = dir.join(FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(FileError::of("read", &path)(e).into()),
        };
        let unreadable = |source| ArtifactError::Unreadable { path: path.clone(), source };
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let found = serde_json::from_slice::<Version>(&text).map_err(unreadable)?.format;
        if found != FORMAT {
            return Err(ArtifactError::Format { path, found, expected: FORMAT });
        }
        serde_json::from_slice(&text).map(Some).map_err(unreadable)
    }

    /// Replaces it atomically and durably.
    pub(super) fn write(&self, dir: &Path) -> Result<(), ArtifactError> {
        let (path, temporary) = (dir.join(FILE), dir.join("current.json.new"));
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|source| ArtifactError::Unreadable { path: path.clone(), source })?;
        text.push(b'\n');
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            File::open(dir)?.sync_all()
        };
        Ok(write().map_err(FileError::of("write", &path))?)
    }
}

impl StoredArtifact {
    /// Absolute path of the main file.
    pub(crate) fn path(&self, artifacts: &Path) -> PathBuf {
        artifacts.join(&self.dir).join(&self.file)
    }

    /// Path of the main file if it is there in full length, and nobody else could have put it there or change it.
    pub(crate) fn checked_file(&self, artifacts: &Path) -> Result<PathBuf, ArtifactError> {
        let path = self.path(artifacts);
        let meta = std::fs::symlink_metadata(&path).map_err(FileError::of("look at an artifact", &path))?;
        if let Some(found) = foreign(&meta) {
            return Err(ArtifactError::Foreign { path, found });
        }
        let bytes = meta.len();
        if bytes != self.bytes {
            let (found, expected) = (format!("{bytes} bytes"), format!("{} bytes", self.bytes));
            return Err(ArtifactError::Damaged { path, found, expected });
        }
        Ok(path)
    }

    /// Compares content and digest.
    pub(crate) fn verify(&self, artifacts: &Path) -> Result<(), ArtifactError> {
        let path = self.checked_file(artifacts)?;
        let found = digest::of_file(&path).map(hex::encode).map_err(FileError::of("read an artifact", &path))?;
        if found != self.sha256 {
            let expected = format!("sha256 {}", self.sha256);
            return Err(ArtifactError::Damaged { path, found: format!("sha256 {found}"), expected });
        }
        Ok(())
    }
}

/// What makes a file one that others could have put there, or could change.
fn foreign(meta: &Metadata) -> Option<String> {
    if !meta.is_file() {
        return Some("it is no regular file".to_owned());
    }
    if meta.uid() != 0 && meta.uid() != Uid::effective().as_raw() {
        return Some(format!("it belongs to uid {}", meta.uid()));
    }
    (meta.mode() & WRITABLE_BY_OTHERS != 0).then(|| "others may write it".to_owned())
}

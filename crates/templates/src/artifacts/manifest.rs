//! `current.json`: the artifacts that are in use.

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
/// The version of the stored format; it changes with the meaning of `current.json`.
const FORMAT: u32 = 1;
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// An artifact: a directory with one main file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredArtifact {
    /// The directory, relative to the artifacts directory.
    pub dir: PathBuf,
    /// The name of the main file in the directory.
    pub file: String,
    /// SHA-256 of the main file, in hexadecimal.
    pub sha256: String,
    /// Length of the main file in bytes.
    pub bytes: u64,
    /// The digest of everything that it was built from. It is not built again while that is the same.
    pub inputs: String,
}

/// The artifact of the guest kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelArtifact {
    /// The kernel's release, as `uname -r` prints it in the guest.
    pub version: String,
    /// The Debian package and version that it was taken from.
    pub package: String,
    #[serde(flatten)]
    pub stored: StoredArtifact,
}

/// The artifacts in use. Some are missing if set-up was never run to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// The kernel of all templates.
    pub kernel: Option<KernelArtifact>,
    /// The initramfs of all templates.
    pub initramfs: Option<StoredArtifact>,
    /// The root file system of each template, by the template's name.
    pub templates: BTreeMap<String, StoredArtifact>,
}

impl Default for Manifest {
    fn default() -> Self {
        Self { format: FORMAT, kernel: None, initramfs: None, templates: BTreeMap::new() }
    }
}

impl Manifest {
    /// Reads `current.json` in `dir`; none if there is no such file.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, ArtifactError> {
        let path = dir.join(FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(FileError::of("reading", &path)(e).into()),
        };
        let unreadable = |source| ArtifactError::Unreadable { path: path.clone(), source };
        // The format comes first: the file of another version may have other fields, and the operator is to learn that
        // set-up must be run and not that the file is damaged.
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

    /// Replaces `current.json` in `dir`, durably and at once: a server that reads it sees the old or the new one.
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
        Ok(write().map_err(FileError::of("writing", &path))?)
    }
}

impl StoredArtifact {
    pub(crate) fn path(&self, artifacts: &Path) -> PathBuf {
        artifacts.join(&self.dir).join(&self.file)
    }

    /// Returns the path of the main file, if it has its full length and no other user could have put it there or change
    /// it.
    pub(crate) fn checked_file(&self, artifacts: &Path) -> Result<PathBuf, ArtifactError> {
        let path = self.path(artifacts);
        // A link is not followed but refused: it could lead to another file after the check.
        let meta = std::fs::symlink_metadata(&path).map_err(FileError::of("looking at an artifact", &path))?;
        if let Some(found) = distrust(&meta) {
            return Err(ArtifactError::Untrusted { path, found });
        }
        let bytes = meta.len();
        if bytes != self.bytes {
            let (found, expected) = (format!("{bytes} bytes"), format!("{} bytes", self.bytes));
            return Err(ArtifactError::Damaged { path, found, expected });
        }
        Ok(path)
    }

    /// Reads the main file and compares it with its digest.
    pub(crate) fn verify(&self, artifacts: &Path) -> Result<(), ArtifactError> {
        let path = self.checked_file(artifacts)?;
        let found = digest::of_file(&path).map(hex::encode).map_err(FileError::of("reading an artifact", &path))?;
        if found != self.sha256 {
            let expected = format!("sha256 {}", self.sha256);
            return Err(ArtifactError::Damaged { path, found: format!("sha256 {found}"), expected });
        }
        Ok(())
    }
}

/// The reason for which a file must not be used: other users of the host could have put it there, or could change it.
fn distrust(meta: &Metadata) -> Option<String> {
    if !meta.is_file() {
        return Some("it is not a regular file".to_owned());
    }
    // Root's files are trusted as well as the server's own: `leapbox setup` is run by root.
    if meta.uid() != 0 && meta.uid() != Uid::effective().as_raw() {
        return Some(format!("it belongs to uid {}", meta.uid()));
    }
    (meta.mode() & WRITABLE_BY_OTHERS != 0).then(|| "others may write it".to_owned())
}

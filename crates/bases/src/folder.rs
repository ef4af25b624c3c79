//! A base on disk: a sealed directory, whose name is the digest of its contents.
//!
//! ```text
//! seal ─► warm/base-<digest>/ ┄┄► read (at start: the manifest) ┄┄► verify (at first use: all data)
//!                                  └────── refused, logged, removed ◄─────┘
//! ```
//!
//! A base that is damaged, or has another base's name, is never booted: it is removed, and created anew when it is
//! needed. Everything here is blocking. Called by `store`, `create` and `export`.

use crate::base::{Base, Header};
use leapbox_errors::chain;
use leapbox_ids::BaseId;
use leapbox_storage::{SealError, SealedFolder};
use leapbox_vmm::Snapshot;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The reason a stored base is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Damaged(#[from] SealError),
    #[error("the header of {path} cannot be encoded")]
    Encode { path: PathBuf, source: serde_json::Error },
    #[error("the directory {folder} holds the base {found} instead of the one it is named after")]
    Misplaced { found: BaseId, folder: String },
}

impl Refused {
    /// Whether the base is known to be damaged, and may be removed.
    pub fn is_damage(&self) -> bool {
        match self {
            // It cannot be read just now, or another version has written it. It may be sound, and checkpoints that are
            // a difference to it would be lost with it.
            Self::Damaged(SealError::File { .. } | SealError::ManifestFormat { .. }) => false,
            Self::Damaged(_) | Self::Encode { .. } | Self::Misplaced { .. } => true,
        }
    }

    /// A fixed word for the fault, for the log's field `fault`, which tests and alerts compare.
    fn fault(&self) -> &'static str {
        match self {
            Self::Damaged(error) => error.fault(),
            Self::Encode { .. } => "not_encodable",
            Self::Misplaced { .. } => "misplaced",
        }
    }

    /// The damaged file, if it is one.
    fn file(&self) -> Option<&Path> {
        match self {
            Self::Damaged(error) => error.path(),
            Self::Encode { path, .. } => Some(path),
            Self::Misplaced { .. } => None,
        }
    }
}

/// Seals the files in `unfinished` and renames the directory to the base's id in `bases`.
pub(crate) fn seal(header: &Header, unfinished: &Path, bases: &Path) -> Result<Base, Refused> {
    // The rename comes last and is atomic: a directory with a base's name is complete, however the server ends.
    let folder = SealedFolder::seal(unfinished, header, &header.files())?;
    let id = id_of(header, &folder)?;
    let folder = folder.move_to(&bases.join(id.as_str()))?;
    base_in(&folder)
}

/// The id of a base with this header and the files of the sealed directory.
pub(crate) fn id_of(header: &Header, folder: &SealedFolder) -> Result<BaseId, Refused> {
    let encode = |source| Refused::Encode { path: folder.dir().to_path_buf(), source };
    header.id_with(folder.files()).map_err(encode)
}

/// Reads the base in `dir` from its manifest. The other files are not read, so this is fast at the start of a server.
pub(crate) fn read(dir: &Path) -> Result<Base, Refused> {
    let base = base_in(&SealedFolder::open(dir)?)?;
    // A sound base under another one's name would be restored for checkpoints that are a difference to that one.
    let folder = dir.file_name().unwrap_or_default().to_string_lossy();
    if base.id.as_str() != folder {
        return Err(Refused::Misplaced { found: base.id, folder: folder.into_owned() });
    }
    Ok(base)
}

/// Compares all files in `dir` with the checksums in the manifest, and the id with the directory's name.
pub(crate) fn verify(dir: &Path) -> Result<(), Refused> {
    read(dir)?;
    Ok(SealedFolder::open(dir)?.verify()?)
}

/// Renames a directory so that its name is free at once, and returns the new path, which the caller passes to
/// [`remove`]. If the server ends before that, the next start removes it, as it does all names that start with a dot.
pub(crate) fn set_aside(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let aside = dir.with_file_name(format!(".gone-{name}"));
    remove(&aside);
    // Removing some hundred MiB takes a while, in which the same base may be imported again under its name.
    match std::fs::rename(dir, &aside) {
        Ok(()) => aside,
        Err(_) => dir.to_path_buf(),
    }
}

/// Removes a directory, if there is one. A failure is logged.
pub(crate) fn remove(dir: &Path) {
    // Whoever could write here may have left a file or a link with this name. A link is removed, never followed.
    let removed =
        if dir.is_symlink() || dir.is_file() { std::fs::remove_file(dir) } else { std::fs::remove_dir_all(dir) };
    if let Err(error) = removed
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), error = %chain(&error), "a base could not be removed");
    }
}

/// Logs that a stored base is refused.
pub(crate) fn log_refused(dir: &Path, refused: &Refused) {
    let (fault, file) = (refused.fault(), refused.file().map(|file| tracing::field::display(file.display())));
    tracing::warn!(
        event = "base_refused",
        dir = %dir.display(),
        fault,
        file,
        reason = chain(refused),
        "refused a stored base: another one is created when it is needed"
    );
}

fn base_in(folder: &SealedFolder) -> Result<Base, Refused> {
    let header: Header = folder.header()?;
    let snapshot = Snapshot {
        shape: header.shape,
        memory: folder.path(&header.memory)?,
        state: folder.path(&header.state)?,
        disk: folder.path(&header.disk)?,
        compatibility_key: header.compatibility_key.clone(),
    };
    Ok(Base {
        id: id_of(&header, folder)?,
        kind: header.kind,
        image: header.image,
        taken_at_ms: header.taken_at_ms,
        snapshot: Arc::new(snapshot),
    })
}

#[cfg(test)]
mod tests;

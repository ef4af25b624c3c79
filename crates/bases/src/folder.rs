//! A base on disk: a sealed folder, named by what is in it.
//!
//! ```text
//! seal ─► warm/base-<digest>/ ┄┄► read (at start: the manifest) ┄┄► verify (at first use: all data)
//!                                  └────── refused, logged, removed ◄─────┘
//! ```
//!
//! A base that is damaged, or lies in another one's place, is never booted: it is removed, and created anew when it is
//! needed. Everything here is blocking.

use crate::base::{Base, Header};
use leapbox_errors::chain;
use leapbox_ids::BaseId;
use leapbox_storage::{SealError, SealedFolder};
use leapbox_vmm::Snapshot;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a stored base is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Damaged(#[from] SealError),
    #[error("the header of {path} cannot be encoded")]
    Encode { path: PathBuf, source: serde_json::Error },
    #[error("it is {found}, and lies in the place of {folder}")]
    Misplaced { found: BaseId, folder: String },
}

impl Refused {
    /// Whether it is known to be unsound. What cannot be read just now, or was made by another version, may be needed
    /// yet: something stored may be a difference to it.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(SealError::File { .. } | SealError::ManifestFormat { .. }) => false,
            Self::Damaged(_) | Self::Encode { .. } | Self::Misplaced { .. } => true,
        }
    }

    /// What is wrong in one word that does not change, for the log's field `fault`.
    fn fault(&self) -> &'static str {
        match self {
            Self::Damaged(error) => error.fault(),
            Self::Encode { .. } => "not_encodable",
            Self::Misplaced { .. } => "misplaced",
        }
    }

    /// The file that it is about.
    fn file(&self) -> Option<&Path> {
        match self {
            Self::Damaged(error) => error.path(),
            Self::Encode { path, .. } => Some(path),
            Self::Misplaced { .. } => None,
        }
    }
}

/// Seals what lies in `unfinished` and moves it to its place in `bases`.
pub(crate) fn seal(header: &Header, unfinished: &Path, bases: &Path) -> Result<Base, Refused> {
    let folder = SealedFolder::seal(unfinished, header, &header.files())?;
    let id = id_of(header, &folder)?;
    let folder = folder.move_to(&bases.join(id.as_str()))?;
    base_in(&folder)
}

/// The id that [`seal`] would give what lies sealed in `dir`.
pub(crate) fn id_of(header: &Header, folder: &SealedFolder) -> Result<BaseId, Refused> {
    let encode = |source| Refused::Encode { path: folder.dir().to_path_buf(), source };
    header.id_with(folder.files()).map_err(encode)
}

/// What the manifest in `dir` says, its data unread.
pub(crate) fn read(dir: &Path) -> Result<Base, Refused> {
    let base = base_in(&SealedFolder::open(dir)?)?;
    let folder = dir.file_name().unwrap_or_default().to_string_lossy();
    if base.id.as_str() != folder {
        return Err(Refused::Misplaced { found: base.id, folder: folder.into_owned() });
    }
    Ok(base)
}

/// Compares all data in `dir` with its manifest, and that with its name.
pub(crate) fn verify(dir: &Path) -> Result<(), Refused> {
    read(dir)?;
    Ok(SealedFolder::open(dir)?.verify()?)
}

/// Takes a folder out of sight at once; what is left to do is [`remove`] it under its new name, which the next server
/// does if this one cannot.
pub(crate) fn set_aside(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let aside = dir.with_file_name(format!(".gone-{name}"));
    remove(&aside);
    match std::fs::rename(dir, &aside) {
        Ok(()) => aside,
        Err(_) => dir.to_path_buf(),
    }
}

/// Removes a folder, if it is there.
pub(crate) fn remove(dir: &Path) {
    // Anything may lie where a folder should.
    let removed =
        if dir.is_symlink() || dir.is_file() { std::fs::remove_file(dir) } else { std::fs::remove_dir_all(dir) };
    if let Err(error) = removed
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), error = %chain(&error), "a warm snapshot could not be removed");
    }
}

/// Says why a base is not used.
pub(crate) fn log_refused(dir: &Path, refused: &Refused) {
    let (fault, file) = (refused.fault(), refused.file().map(|file| tracing::field::display(file.display())));
    tracing::warn!(
        event = "base_refused",
        dir = %dir.display(),
        fault,
        file,
        reason = chain(refused),
        "refused a stored warm snapshot: another is taken when one is needed"
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

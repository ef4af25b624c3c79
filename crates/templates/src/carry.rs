//! Files into an archive and out of it again: what bases and images have in common on their way to a bucket and back.
//!
//! Only data travels: a file's holes, and its pages of zeroes, are holes again when it is back. Everything here is
//! blocking. Called by `warm` (bases) and `artifacts` (images).

use leapbox_storage::{Archive, ArchiveError, ArchiveWriter, StorageError, StoreError, disk_runs, write_disk};
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why something could not be put into an archive, or taken out.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
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
    /// What is to be stored is damaged.
    #[error("{path} is not as it was sealed, and not stored")]
    Damaged {
        /// Its folder.
        path: PathBuf,
    },
    /// The archive cannot be written, or not be read.
    #[error("the archive's {part}")]
    Part {
        /// The part.
        part: &'static str,
        /// Why not.
        #[source]
        source: ArchiveError,
    },
    /// The archive cannot be completed.
    #[error("the archive cannot be completed")]
    Seal {
        /// Why not.
        #[source]
        source: StoreError,
    },
    /// A file cannot be made of its data.
    #[error("the archive's {part} cannot be unpacked")]
    Unpack {
        /// The part.
        part: &'static str,
        /// Why not.
        #[source]
        source: StorageError,
    },
    /// The archive holds something else than its id promises.
    #[error("what is stored as {id} is {found}")]
    Another {
        /// The archive's id.
        id: String,
        /// What its contents amount to.
        found: String,
    },
    /// The archive says that a file has a name that leads elsewhere.
    #[error("{name:?} cannot be the name of a file")]
    Name {
        /// The name.
        name: String,
    },
    /// The server is ending.
    #[error("interrupted")]
    Interrupted {
        /// By what.
        #[source]
        source: tokio::task::JoinError,
    },
}

/// Puts a file's data into a part; its length in bytes.
pub(crate) fn pack(writer: &mut ArchiveWriter, part: &'static str, path: &Path) -> Result<u64, CarryError> {
    let file = File::open(path).map_err(fail("opening", path))?;
    let length = file.metadata().map_err(fail("looking at", path))?.len();
    writer.runs(part, disk_runs(file)).map_err(|source| CarryError::Part { part, source })?;
    Ok(length)
}

/// Makes the new file `path` of a part: read-only, for everybody who can get there, and durable.
pub(crate) fn unpack(archive: &Archive, part: &'static str, path: &Path, length: u64) -> Result<(), CarryError> {
    let runs = archive.runs(part).map_err(|source| CarryError::Part { part, source })?;
    write_disk(path, length, runs).map_err(|source| CarryError::Unpack { part, source })?;
    protect(path)
}

/// What [`unpack`] does in the end, for a file that was written otherwise.
pub(crate) fn protect(path: &Path) -> Result<(), CarryError> {
    let file = File::open(path).map_err(fail("opening", path))?;
    file.set_permissions(Permissions::from_mode(0o444)).map_err(fail("protecting", path))?;
    file.sync_all().map_err(fail("writing to disk", path))
}

pub(crate) fn fail(step: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CarryError {
    let path = path.to_path_buf();
    move |source| CarryError::File { step, path, source }
}

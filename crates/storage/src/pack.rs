//! Whole files as parts of an archive: bases and guest images are exported and imported this way.
//!
//! Only data is stored: a file's holes, and its pages of zeroes, are holes again when it is unpacked. Everything here
//! is blocking. Called by `bases` and `templates`.

use crate::{Archive, ArchiveError, ArchiveWriter, StorageError, StoreError, disk_runs, write_disk};
use leapbox_ids::ArchiveId;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why something could not be put into an archive, or taken out.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file operation failed.
    #[error("{step}: {path}")]
    File {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// What is to be stored is damaged.
    #[error("{path} is not as it was sealed, and not stored")]
    Damaged { path: PathBuf },
    /// The archive cannot be written, or not be read.
    #[error("the archive's {part}")]
    Part {
        part: &'static str,
        #[source]
        source: ArchiveError,
    },
    /// The archive cannot be completed.
    #[error("the archive cannot be completed")]
    Seal {
        #[source]
        source: StoreError,
    },
    /// A file cannot be made of its data.
    #[error("the archive's {part} cannot be unpacked")]
    Unpack {
        part: &'static str,
        #[source]
        source: StorageError,
    },
    /// The archive holds something else than its id promises.
    #[error("what is stored as {id} is {found}")]
    Another {
        id: ArchiveId,
        /// What its contents amount to.
        found: ArchiveId,
    },
    /// The archive says that a file has a name that leads elsewhere.
    #[error("{name:?} cannot be the name of a file")]
    Name { name: String },
    /// The server is ending.
    #[error("interrupted")]
    Interrupted {
        #[source]
        source: tokio::task::JoinError,
    },
}

impl PackError {
    /// Maps the error of a file operation.
    pub fn file(step: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| PackError::File { step, path, source }
    }
}

/// Writes a file's data into the part `part`; returns the file's length in bytes, holes included.
pub fn pack_file(writer: &mut ArchiveWriter, part: &'static str, path: &Path) -> Result<u64, PackError> {
    let file = File::open(path).map_err(PackError::file("opening", path))?;
    let length = file.metadata().map_err(PackError::file("looking at", path))?.len();
    writer.runs(part, disk_runs(file)).map_err(|source| PackError::Part { part, source })?;
    Ok(length)
}

/// Makes the new file `path` from the part `part`: on disk, and read-only for everybody, because VMMs read it under
/// users of their own.
pub fn unpack_file(archive: &Archive, part: &'static str, path: &Path, length: u64) -> Result<(), PackError> {
    let runs = archive.runs(part).map_err(|source| PackError::Part { part, source })?;
    write_disk(path, length, runs).map_err(|source| PackError::Unpack { part, source })?;
    make_read_only(path)
}

/// The last step of [`unpack_file`], for a file that was written in another way.
pub fn make_read_only(path: &Path) -> Result<(), PackError> {
    let file = File::open(path).map_err(PackError::file("opening", path))?;
    file.set_permissions(Permissions::from_mode(0o444)).map_err(PackError::file("protecting", path))?;
    file.sync_all().map_err(PackError::file("writing to disk", path))
}

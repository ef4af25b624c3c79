//! Whole files as parts of an archive, for the export and import of bases and guest images.
//!
//! Only data is stored: holes of a file and its pages of zeroes are holes when it is unpacked. Everything here is
//! blocking. Called by `bases` and `templates`.

use crate::{Archive, ArchiveError, ArchiveWriter, StorageError, StoreError, disk_runs, write_disk};
use leapbox_ids::ArchiveId;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A base or guest image could not be exported to an archive, or not be imported from one.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("{step}: {path}")]
    File {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The base that is to be exported does not match its seal any more.
    #[error("{path} is damaged and was not exported")]
    Damaged { path: PathBuf },
    /// Writing a part, or reading it, failed.
    #[error("writing or reading the archive's part {part}")]
    Part {
        part: &'static str,
        #[source]
        source: ArchiveError,
    },
    /// All parts were written, but the manifest or the final rename failed.
    #[error("the archive cannot be completed")]
    Seal {
        #[source]
        source: StoreError,
    },
    /// The file could not be written, or the part ended with an error.
    #[error("unpacking the archive's part {part}")]
    Unpack {
        part: &'static str,
        #[source]
        source: StorageError,
    },
    /// The archive `id` is authentic, but its contents have the digest `found`.
    #[error("what is stored as {id} is {found}")]
    Another { id: ArchiveId, found: ArchiveId },
    /// The archive names a file that would lie outside of the directory that it is unpacked into.
    #[error("the archive contains a file named {name:?}, which is not a plain file name")]
    Name { name: String },
    /// The blocking task panicked, or was cancelled because the server ends.
    #[error("the export or import was interrupted")]
    Interrupted {
        #[source]
        source: tokio::task::JoinError,
    },
}

impl PackError {
    /// For `map_err`: names what was done to which file.
    pub fn file(step: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| PackError::File { step, path, source }
    }
}

/// Writes a file's data into the part `part`. Returns the file's length in bytes, holes included, which
/// [`unpack_file`] needs and the caller keeps in the archive's header.
pub fn pack_file(writer: &mut ArchiveWriter, part: &'static str, path: &Path) -> Result<u64, PackError> {
    let file = File::open(path).map_err(PackError::file("opening", path))?;
    let length = file.metadata().map_err(PackError::file("looking at", path))?.len();
    writer.runs(part, disk_runs(file)).map_err(|source| PackError::Part { part, source })?;
    Ok(length)
}

/// Creates the file `path` of `length` bytes from the part `part`, synced and read-only for everybody.
pub fn unpack_file(archive: &Archive, part: &'static str, path: &Path, length: u64) -> Result<(), PackError> {
    let runs = archive.runs(part).map_err(|source| PackError::Part { part, source })?;
    write_disk(path, length, runs).map_err(|source| PackError::Unpack { part, source })?;
    make_read_only(path)
}

/// Makes `path` read-only and syncs it, for a file that was not written by [`unpack_file`].
pub fn make_read_only(path: &Path) -> Result<(), PackError> {
    let file = File::open(path).map_err(PackError::file("opening", path))?;
    // Readable for all, because every VMM opens it under a uid of its own. The directory keeps everybody else out.
    file.set_permissions(Permissions::from_mode(0o444)).map_err(PackError::file("protecting", path))?;
    file.sync_all().map_err(PackError::file("writing to disk", path))
}

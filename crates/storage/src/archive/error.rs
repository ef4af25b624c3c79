//! Errors of archives. Every variant but [`ArchiveError::Name`] has the path of the file that it is about.

use crate::KeyError;
use leapbox_errors::FileError;
use std::io;
use std::path::{Path, PathBuf};

/// An archive could not be written, or must not be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error(transparent)]
    File(#[from] FileError),
    /// Names of parts, like ids of archives, are single path segments of letters, digits, `-` and `_`.
    #[error("{name:?} is not a valid name of an archive or of one of its parts")]
    Name { name: String },
    /// An archive never changes, so neither it (`path` is its directory) nor a part of it is written twice.
    #[error("{path} exists already, and archives are never overwritten")]
    Exists { path: PathBuf },
    /// Writing a part failed before, so the directory `path` cannot become an archive.
    #[error("{path} was not sealed, because writing one of its parts failed")]
    Unfinished { path: PathBuf },
    /// The caller's source of runs failed: the memory of a machine, or a disk.
    #[error("reading the data that is to be stored in {path}")]
    Source {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Runs are ascending, do not overlap, and have 1 to 1 Mi bytes.
    #[error("invalid run of {length} bytes at offset {offset} in {path}: it is too long, empty, or out of order")]
    Run { path: PathBuf, offset: u64, length: usize },
    /// Parts of bytes are read into memory as a whole, and so their length is bounded.
    #[error("{path} has {length} bytes; a part of plain bytes has at most {max}", max = super::manifest::BYTES_MAX)]
    TooLong { path: PathBuf, length: u64 },
    /// The owner's header cannot be represented as JSON.
    #[error("the manifest {path} cannot be encoded")]
    Encode {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// Readers refuse a longer manifest, so writers do as well.
    #[error("the manifest {path} has {length} bytes; a manifest has at most {max}", max = super::MANIFEST_MAX)]
    ManifestTooLong { path: PathBuf, length: u64 },
    /// `path` is a part's file, or the manifest.
    #[error("{path} is missing")]
    Missing { path: PathBuf },
    /// A link, directory or device lies where a file should.
    #[error("{path} is not a regular file")]
    NotAFile { path: PathBuf },
    /// The manifest is not what any version writes.
    #[error("the manifest {path} is damaged: it cannot be read")]
    ManifestUnreadable {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// The archive was written by another version of Leapbox.
    #[error("the manifest {path} has format {found}, this version reads {expected}")]
    ManifestFormat { path: PathBuf, found: u64, expected: u32 },
    /// The archive is of another installation, or of a key that is lost. Both keys are given by their fingerprints;
    /// `found` is as the manifest says, and not authenticated.
    #[error("{path} was sealed with another server key ({found}, and this server's is {expected})")]
    OtherKey { path: PathBuf, found: String, expected: String },
    /// The manifest is well formed, but not what was written.
    #[error("the manifest {path} is damaged: its tag does not match")]
    ManifestDamaged { path: PathBuf },
    /// A sound archive lies under the name of another one.
    #[error("{path} is the manifest of {found}, not of {expected}")]
    OtherArchive { path: PathBuf, found: String, expected: String },
    /// The header is sound, but not of the type that the caller asked for.
    #[error("the header in the manifest {path} is not of the expected kind")]
    Header {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// The archive has no part of that name and kind.
    #[error("{path} is not among the archive's parts of that kind")]
    NoPart { path: PathBuf },
    /// The file was truncated or extended.
    #[error("{path} is damaged: it has {found} bytes and was sealed with {expected}")]
    Length { path: PathBuf, found: u64, expected: u64 },
    /// `frame`, counted from 0, is the first one that does not open; it begins at byte `offset` of the file.
    #[error("{path} is damaged: frame {frame}, at byte {offset}, is not what was sealed")]
    Damaged { path: PathBuf, frame: u64, offset: u64 },
    /// Every frame opens, but together they do not have the bytes that the manifest says.
    #[error("{path} is damaged: it holds {found} bytes of data and was sealed with {expected}")]
    Total { path: PathBuf, found: u64, expected: u64 },
    /// A key, or the random salt that it needs, cannot be made.
    #[error("deriving the keys of {path}")]
    Key {
        path: PathBuf,
        #[source]
        source: KeyError,
    },
}

impl ArchiveError {
    /// The path of the file that the error is about; `lifecycle` tells the operator which part is damaged.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Name { .. } => None,
            Self::File(FileError { path, .. })
            | Self::Exists { path }
            | Self::Unfinished { path }
            | Self::Source { path, .. }
            | Self::Run { path, .. }
            | Self::Encode { path, .. }
            | Self::ManifestTooLong { path, .. }
            | Self::TooLong { path, .. }
            | Self::Header { path, .. }
            | Self::NoPart { path, .. }
            | Self::Missing { path }
            | Self::NotAFile { path }
            | Self::ManifestUnreadable { path, .. }
            | Self::ManifestFormat { path, .. }
            | Self::OtherKey { path, .. }
            | Self::ManifestDamaged { path }
            | Self::OtherArchive { path, .. }
            | Self::Length { path, .. }
            | Self::Damaged { path, .. }
            | Self::Total { path, .. }
            | Self::Key { path, .. } => Some(path),
        }
    }

    /// Whether the stored archive is not what was sealed, in contrast to one that cannot be read at the moment. Damage
    /// lasts: a copy in the bucket is used instead if there is one, and nothing is gained by trying again.
    pub fn is_damage(&self) -> bool {
        match self {
            // Another format or key is damage here, too: this server cannot read the archive.
            Self::Missing { .. }
            | Self::NotAFile { .. }
            | Self::ManifestUnreadable { .. }
            | Self::ManifestTooLong { .. }
            | Self::ManifestDamaged { .. }
            | Self::OtherArchive { .. }
            | Self::OtherKey { .. }
            | Self::Length { .. }
            | Self::Damaged { .. }
            | Self::Total { .. }
            | Self::ManifestFormat { .. } => true,
            Self::File(_)
            | Self::Name { .. }
            | Self::Exists { .. }
            | Self::Unfinished { .. }
            | Self::Source { .. }
            | Self::Run { .. }
            | Self::TooLong { .. }
            | Self::Encode { .. }
            | Self::Header { .. }
            | Self::NoPart { .. }
            | Self::Key { .. } => false,
        }
    }
}

impl ArchiveError {
    /// Whether the archive may be sound for a server with another key or of another version.
    pub(crate) fn is_of_another_server(&self) -> bool {
        matches!(self, Self::OtherKey { .. } | Self::ManifestFormat { .. })
    }
}

/// An iterator of runs yields `io::Error`, because drivers read runs of files and of archives alike.
impl From<ArchiveError> for io::Error {
    fn from(error: ArchiveError) -> Self {
        let kind = if error.is_damage() { io::ErrorKind::InvalidData } else { io::ErrorKind::Other };
        io::Error::new(kind, error)
    }
}

//! What can be wrong with an archive: every variant names the file.

use crate::KeyError;
use leapbox_errors::FileError;
use std::io;
use std::path::{Path, PathBuf};

/// Why an archive could not be written, or must not be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Names of parts, like ids of archives, are single path segments of letters, digits, `-` and `_`.
    #[error("{name:?} cannot be the name of an archive or of a part of one")]
    Name { name: String },
    /// An archive never changes, so it is never written twice.
    #[error("{path} is there already")]
    Exists {
        /// The archive's folder, or the part.
        path: PathBuf,
    },
    /// A part failed before; what was written is no archive.
    #[error("{path} is not sealed, because a part of it failed")]
    Unfinished {
        /// The folder that was being written.
        path: PathBuf,
    },
    /// What was to be stored could not be read.
    #[error("reading what is to be stored in {path}")]
    Source {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Runs are ascending, do not overlap, and have 1 to 1 Mi bytes.
    #[error("a run of {length} bytes at {offset} cannot be in {path}: it is too long, empty, or out of order")]
    Run {
        path: PathBuf,
        /// Where the run belongs, in bytes.
        offset: u64,
        length: usize,
    },
    /// Parts of bytes are read into memory as a whole.
    #[error("{path} has {length} bytes, too many for a part that is no runs")]
    TooLong { path: PathBuf, length: u64 },
    /// A manifest cannot be written as JSON.
    #[error("the manifest {path} cannot be encoded")]
    Encode {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// More than an opened one may have.
    #[error("the manifest {path} would have {length} bytes; at most {max} can be read again", max = super::MANIFEST_MAX)]
    ManifestTooLong { path: PathBuf, length: u64 },
    /// There is no such file.
    #[error("{path} is missing")]
    Missing {
        /// A part, or the manifest.
        path: PathBuf,
    },
    /// A link, folder or device lies where a file should.
    #[error("{path} is not a regular file")]
    NotAFile { path: PathBuf },
    /// Not what any version writes.
    #[error("the manifest {path} is damaged: it cannot be read")]
    ManifestUnreadable {
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Written by another version of Leapbox.
    #[error("the manifest {path} has format {found}, this version reads {expected}")]
    ManifestFormat { path: PathBuf, found: u64, expected: u32 },
    /// Of another installation, or of a key that is lost.
    #[error("{path} was sealed with another server key ({found}, and this server's is {expected})")]
    OtherKey {
        path: PathBuf,
        /// That key's fingerprint, as it is said there.
        found: String,
        expected: String,
    },
    /// Well formed, but not what was written.
    #[error("the manifest {path} is damaged: its tag does not match")]
    ManifestDamaged { path: PathBuf },
    /// A sound archive in the place of another one.
    #[error("{path} is the manifest of {found}, not of {expected}")]
    OtherArchive { path: PathBuf, found: String, expected: String },
    /// The header is not of the kind that was asked for.
    #[error("the manifest {path} describes something else")]
    Header {
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The archive has no part of that name and kind.
    #[error("{path} is not among the archive's parts of that kind")]
    NoPart { path: PathBuf },
    /// Truncated or extended.
    #[error("{path} is damaged: it has {found} bytes and was sealed with {expected}")]
    Length { path: PathBuf, found: u64, expected: u64 },
    /// Other bytes than were sealed.
    #[error("{path} is damaged: frame {frame}, at byte {offset}, is not what was sealed")]
    Damaged {
        path: PathBuf,
        /// The first frame that is not sound, counted from 0.
        frame: u64,
        /// Where it begins in the file.
        offset: u64,
    },
    /// The frames are sound and yet not those of the manifest.
    #[error("{path} is damaged: it holds {found} bytes of data and was sealed with {expected}")]
    Total { path: PathBuf, found: u64, expected: u64 },
    /// The keys cannot be derived.
    #[error("deriving the keys of {path}")]
    Key {
        path: PathBuf,
        #[source]
        source: KeyError,
    },
}

impl ArchiveError {
    /// The file that it is about, if it is about one.
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

    /// Whether what is stored is not what was sealed (as against: it cannot be read now, or was never there).
    pub fn is_damage(&self) -> bool {
        match self {
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

/// For the consumers of runs, which speak of files.
impl From<ArchiveError> for io::Error {
    fn from(error: ArchiveError) -> Self {
        let kind = if error.is_damage() { io::ErrorKind::InvalidData } else { io::ErrorKind::Other };
        io::Error::new(kind, error)
    }
}

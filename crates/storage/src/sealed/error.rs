//! Errors of sealed directories. Every variant but [`SealError::Name`] has the path of the file that it is about.

use leapbox_errors::FileError;
use std::path::{Path, PathBuf};

/// A directory could not be sealed, or must not be used.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(transparent)]
    File(#[from] FileError),
    /// The owner's header cannot be represented as JSON.
    #[error("the header of {path} cannot be encoded")]
    Encode {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// A file's name is one plain path component, and not the manifest's.
    #[error("{name:?} is not a valid name of a sealed file")]
    Name { name: String },
    /// `path` is a sealed file, or the manifest.
    #[error("{path} is missing")]
    Missing { path: PathBuf },
    /// A link, directory or device lies where a file should.
    #[error("{path} is not a regular file")]
    NotAFile { path: PathBuf },
    /// The file was truncated or extended.
    #[error("{path} is damaged: it has {found} bytes and was sealed with {expected}")]
    Length { path: PathBuf, found: u64, expected: u64 },
    /// The first damaged chunk of the file begins at byte `offset`.
    #[error("{path} is damaged: its bytes at {offset}..{end} are not those that were sealed", end = offset + crate::checksum::CHUNK)]
    Damaged { path: PathBuf, offset: u64 },
    /// The manifest is not what any version writes.
    #[error("the manifest {path} is damaged: it cannot be read")]
    ManifestUnreadable {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// The manifest is well formed, but its content is not what was written.
    #[error("the manifest {path} is damaged: its checksum does not match")]
    ManifestDamaged { path: PathBuf },
    /// The directory was sealed by another version of Leapbox.
    #[error("the manifest {path} has format {found}, this version reads {expected}")]
    ManifestFormat { path: PathBuf, found: u64, expected: u32 },
    /// The header is sound, but not of the type that the caller asked for.
    #[error("the header in the manifest {path} is not of the expected kind")]
    Header {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// The caller asked for a file that the manifest does not have.
    #[error("{path} is not among the sealed files")]
    NotSealed { path: PathBuf },
}

impl SealError {
    /// The kind of the error in one word that does not change, for the log's field `fault`.
    pub fn fault(&self) -> &'static str {
        match self {
            Self::File(_) => "unreadable",
            Self::Encode { .. } => "not_encodable",
            Self::Name { .. } => "name",
            Self::Missing { .. } => "missing",
            Self::NotAFile { .. } => "not_a_file",
            Self::Length { .. } => "length",
            Self::Damaged { .. } => "content",
            Self::ManifestUnreadable { .. } | Self::ManifestDamaged { .. } => "manifest",
            Self::ManifestFormat { .. } => "format",
            Self::Header { .. } => "header",
            Self::NotSealed { .. } => "not_sealed",
        }
    }

    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(FileError { path, .. })
            | Self::Encode { path, .. }
            | Self::Missing { path }
            | Self::NotAFile { path }
            | Self::Length { path, .. }
            | Self::Damaged { path, .. }
            | Self::ManifestUnreadable { path, .. }
            | Self::ManifestDamaged { path }
            | Self::ManifestFormat { path, .. }
            | Self::Header { path, .. }
            | Self::NotSealed { path } => Some(path),
            Self::Name { .. } => None,
        }
    }
}

//! What can be wrong with a sealed folder: every variant names the file.

use leapbox_errors::FileError;
use std::path::{Path, PathBuf};

/// Why a folder could not be sealed, or must not be used.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The header cannot be written as JSON.
    #[error("the header of {path} cannot be encoded")]
    Encode {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// A file of a folder is named by one plain component, and not like the manifest.
    #[error("{name:?} cannot be the name of a sealed file")]
    Name { name: String },
    /// There is no such file.
    #[error("{path} is missing")]
    Missing {
        /// The file, or the manifest.
        path: PathBuf,
    },
    /// A link, folder or device lies where a file should.
    #[error("{path} is not a regular file")]
    NotAFile { path: PathBuf },
    /// Truncated or extended.
    #[error("{path} is damaged: it has {found} bytes and was sealed with {expected}")]
    Length { path: PathBuf, found: u64, expected: u64 },
    /// Other bytes than were sealed.
    #[error("{path} is damaged: its bytes at {offset}..{end} are not those that were sealed", end = offset + crate::checksum::CHUNK)]
    Damaged {
        path: PathBuf,
        /// Where the first damaged chunk begins, in bytes.
        offset: u64,
    },
    /// Not what any version writes.
    #[error("the manifest {path} is damaged: it cannot be read")]
    ManifestUnreadable {
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Well formed, but its content is not what was written.
    #[error("the manifest {path} is damaged: its checksum does not match")]
    ManifestDamaged { path: PathBuf },
    /// Written by another version of Leapbox.
    #[error("the manifest {path} has format {found}, this version reads {expected}")]
    ManifestFormat { path: PathBuf, found: u64, expected: u32 },
    /// The header is not of the kind that was asked for.
    #[error("the manifest {path} describes something else")]
    Header {
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Asked for a file that is not under the seal.
    #[error("{path} is not among the sealed files")]
    NotSealed { path: PathBuf },
}

impl SealError {
    /// What is wrong in one word that does not change, for the log's field `fault`.
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

    /// The file that it is about.
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

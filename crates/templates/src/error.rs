//! Errors of building and reading artifacts.

use crate::host_command::CommandError;
use leapbox_errors::FileError;
use leapbox_ids::{ArchiveId, ImageDigest};
use leapbox_storage::PackError;
use std::path::PathBuf;

/// An artifact could not be built, read, exported or imported.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error(transparent)]
    File(#[from] FileError),
    /// A program of the host failed; `step` says what it was to do.
    #[error("{step}")]
    Command {
        step: &'static str,
        #[source]
        source: CommandError,
    },
    /// There is no `current.json`, or it lacks an artifact.
    #[error("{what} has not been built in {dir}; run `leapbox setup`")]
    NotBuilt { what: String, dir: PathBuf },
    /// `current.json` or an image's configuration is not what this version writes.
    #[error("{path} cannot be read; remove it and run `leapbox setup`")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// `current.json` was written by another version of Leapbox.
    #[error("{path} has format {found}, this version reads {expected}; run `leapbox setup`")]
    Format { path: PathBuf, found: u32, expected: u32 },
    /// A stored file is not what was written. `found` and `expected` are lengths or digests.
    #[error("{path} is damaged ({found}, recorded: {expected}); run `leapbox setup`")]
    Damaged { path: PathBuf, found: String, expected: String },
    /// Other users of the host could have put the file there, or could change it.
    #[error("{path} cannot be trusted: {found}; remove it and run `leapbox setup`")]
    Untrusted { path: PathBuf, found: String },
    /// A stored sandbox needs a guest image that its template does not have any more, and that was never built on this
    /// host or has been removed.
    #[error("the guest image {digest} is not in {dir}")]
    NoImage { digest: ImageDigest, dir: PathBuf },
    #[error("exporting or importing the guest image {digest}")]
    Archive {
        digest: ImageDigest,
        #[source]
        source: Box<PackError>,
    },
    /// The archive that is to be imported is of a checkpoint or base.
    #[error("{archive} is not the archive of a guest image")]
    NotAnImage { archive: ArchiveId },
    /// A Debian package lacks a file or dependency that it is expected to have.
    #[error("Debian's {package} cannot be used: {reason}")]
    Package { package: String, reason: &'static str },
    #[error("{path} cannot be unpacked: {reason}")]
    KernelImage { path: PathBuf, reason: &'static str },
    /// A kernel module the guest needs exists neither as a module nor built in.
    #[error("kernel {kernel} has no module {module}")]
    ModuleMissing { kernel: String, module: String },
    /// The root file system lacks a user or directory of its recipe.
    #[error("the root file system of {template} has no {what}")]
    RootfsIncomplete { template: String, what: String },
}

impl ArtifactError {
    /// For `map_err`: names what the program was to do.
    pub(crate) fn command(step: &'static str) -> impl FnOnce(CommandError) -> Self {
        move |source| ArtifactError::Command { step, source }
    }
}

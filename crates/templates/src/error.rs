//! Why an artifact could not be built or read.

use crate::host_command::CommandError;
use leapbox_errors::FileError;
use leapbox_ids::{ArchiveId, ImageDigest};
use leapbox_storage::PackError;
use std::path::PathBuf;

/// One variant per failing step.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// A file or folder operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A command of the host failed.
    #[error("{step}")]
    Command {
        step: &'static str,
        #[source]
        source: CommandError,
    },
    /// There is no `current.json`, or it lacks something.
    #[error("{what} has not been built in {dir}; run `leapbox setup`")]
    NotBuilt { what: String, dir: PathBuf },
    /// `current.json` or an image's configuration is not what this version writes.
    #[error("{path} cannot be read; remove it and run `leapbox setup`")]
    Unreadable {
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// `current.json` was written by another version of Leapbox.
    #[error("{path} has format {found}, this version reads {expected}; run `leapbox setup`")]
    Format { path: PathBuf, found: u32, expected: u32 },
    /// A stored file is not what was written.
    #[error("{path} is damaged ({found}, recorded: {expected}); run `leapbox setup`")]
    Damaged { path: PathBuf, found: String, expected: String },
    /// A stored file is one that others could have put there, or could change.
    #[error("{path} cannot be trusted: {found}; remove it and run `leapbox setup`")]
    Foreign {
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// A stored sandbox needs a guest image that is in use no more, and was never here or has been removed.
    #[error("the guest image {digest} is not in {dir}")]
    NoImage { digest: ImageDigest, dir: PathBuf },
    /// A guest image could not be exported to its archive, or not be imported from it.
    #[error("the guest image {digest} and its archive")]
    Archive {
        digest: ImageDigest,
        #[source]
        source: Box<PackError>,
    },
    /// What is to be imported is no guest image.
    #[error("{archive} is not the archive of a guest image")]
    NotAnImage { archive: ArchiveId },
    /// A Debian package does not look as expected.
    #[error("Debian's {package} cannot be used: {reason}")]
    Package { package: String, reason: &'static str },
    /// The kernel image is not a bzImage that can be unpacked.
    #[error("{path} cannot be unpacked: {reason}")]
    KernelImage { path: PathBuf, reason: &'static str },
    /// A kernel module the guest needs exists neither as a module nor built in.
    #[error("kernel {kernel} has no module {module}")]
    ModuleMissing { kernel: String, module: String },
    /// The root file system lacks something its recipe promises.
    #[error("the root file system of {template} has no {what}")]
    RootfsIncomplete { template: String, what: String },
}

impl ArtifactError {
    pub(crate) fn command(step: &'static str) -> impl FnOnce(CommandError) -> Self {
        move |source| ArtifactError::Command { step, source }
    }
}

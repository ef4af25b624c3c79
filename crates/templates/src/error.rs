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
        /// What it was for.
        step: &'static str,
        /// How it failed.
        #[source]
        source: CommandError,
    },
    /// There is no `current.json`, or it lacks something.
    #[error("{what} has not been built in {dir}; run `leapbox setup`")]
    NotBuilt {
        /// What is missing.
        what: String,
        /// The artifacts folder.
        dir: PathBuf,
    },
    /// `current.json` or an image's configuration is not what this version writes.
    #[error("{path} cannot be read; remove it and run `leapbox setup`")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// `current.json` was written by another version of Leapbox.
    #[error("{path} has format {found}, this version reads {expected}; run `leapbox setup`")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format number.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// A stored file is not what was written.
    #[error("{path} is damaged ({found}, recorded: {expected}); run `leapbox setup`")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it is now.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A stored file is one that others could have put there, or could change.
    #[error("{path} cannot be trusted: {found}; remove it and run `leapbox setup`")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// A stored sandbox needs a guest image that is in use no more, and was never here or has been removed.
    #[error("the guest image {digest} is not in {dir}")]
    NoImage {
        /// The image's digest.
        digest: ImageDigest,
        /// The artifacts folder.
        dir: PathBuf,
    },
    /// A guest image could not be exported to its archive, or not be imported from it.
    #[error("the guest image {digest} and its archive")]
    Archive {
        /// The image's digest.
        digest: ImageDigest,
        /// Why not.
        #[source]
        source: Box<PackError>,
    },
    /// What is to be imported is no guest image.
    #[error("{archive} is not the archive of a guest image")]
    NotAnImage {
        /// The archive.
        archive: ArchiveId,
    },
    /// A Debian package does not look as expected.
    #[error("Debian's {package} cannot be used: {reason}")]
    Package {
        /// Package name.
        package: String,
        /// What is unexpected.
        reason: &'static str,
    },
    /// The kernel image is not a bzImage that can be unpacked.
    #[error("{path} cannot be unpacked: {reason}")]
    KernelImage {
        /// The bzImage.
        path: PathBuf,
        /// What is unexpected.
        reason: &'static str,
    },
    /// A kernel module the guest needs exists neither as a module nor built in.
    #[error("kernel {kernel} has no module {module}")]
    ModuleMissing {
        /// Kernel version.
        kernel: String,
        /// Module name.
        module: String,
    },
    /// The root file system lacks something its recipe promises.
    #[error("the root file system of {template} has no {what}")]
    RootfsIncomplete {
        /// Template name.
        template: String,
        /// What is missing.
        what: String,
    },
}

impl ArtifactError {
    pub(crate) fn command(step: &'static str) -> impl FnOnce(CommandError) -> Self {
        move |source| ArtifactError::Command { step, source }
    }
}

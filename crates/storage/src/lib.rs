//! Files that hold sandboxes: writable disks, and the bytes of RAM images.
//!
//! Everything here is sparse: a disk is 10 GiB in name and a few MiB in fact, so copies move data extents only, by
//! reference where the file system can, and checksums are over data alone. Called by `templates` (a pristine disk, warm
//! snapshots as [`SealedFolder`]s), `lifecycle` (a copy per sandbox) and `vmm` (RAM images).

#![deny(unsafe_code)]

mod checksum;
mod disk;
mod extents;
mod private;
mod sealed;

pub use disk::{create_pristine_disk, free_mib};
pub use extents::{copy_data, copy_sparse};
pub use private::{PrivateError, private_dir};
pub use sealed::{SealError, SealedFile, SealedFolder};

use std::path::PathBuf;

/// What a storage operation failed at.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
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
    /// A host program failed.
    #[error("`{argv}` ended with {status}: {output}")]
    Command {
        /// The command line.
        argv: String,
        /// Its exit status.
        status: String,
        /// What it printed.
        output: String,
    },
}

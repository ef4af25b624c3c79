//! Files that hold sandboxes: writable disks, RAM images, and the archives in which both are stored.
//!
//! ```text
//! disk, extents, checksum   sparse files: a disk of 10 GiB holds a few MiB of data, so copies move data extents only,
//!                           by reference where the file system can, and checksums cover the data alone
//! sealed, private           shared files that VMMs map, with checksums, in directories that only the server may change
//! run, disk_runs            pieces of a memory or a disk on their way between VMMs, archives and files
//! key, archive              stored state: compressed, encrypted, authenticated
//! store                     the archives of an installation: a directory on this host and a bucket behind it
//! pack                      whole files as parts of an archive
//! digest                    SHA-256, for everything that is named by its content
//! ```
//!
//! Called by `bases` (a pristine disk, bases as [`SealedFolder`]s and as archives), `templates` (digests, images as
//! archives), `lifecycle` (a copy per sandbox, checkpoints as archives) and `vmm` (RAM images, changes to them as
//! [`Runs`]).

#![deny(unsafe_code)]

mod archive;
mod checksum;
pub mod digest;
mod disk;
mod disk_runs;
mod extents;
mod key;
mod pack;
mod private;
mod run;
mod sealed;
mod store;
mod strict_hex;
#[cfg(test)]
mod test_ids;

pub use archive::{Archive, ArchiveError, PartStats, Stamp};
pub use disk::{create_pristine_disk, free_mib};
pub use disk_runs::{disk_runs, write_disk};
pub use extents::{copy_data, copy_sparse};
pub use key::{KeyError, ServerKey};
pub use pack::{PackError, make_read_only, pack_file, unpack_file};
pub use private::{PrivateError, private_dir};
pub use run::{RUN_MAX, Run, Runs};
pub use sealed::{SealError, SealedFile, SealedFolder};
pub use store::{
    ArchiveStore, ArchiveWriter, FoundArchive, Pin, RemoteConfig, Sealed, StoreConfig, StoreError, Survey, Sweep,
    Swept, Usage, survey,
};

use leapbox_errors::FileError;

/// An operation on a disk or another sparse file failed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error(transparent)]
    File(#[from] FileError),
    /// `mkfs.ext4` ran and failed; `output` is its standard error.
    #[error("`{argv}` ended with {status}: {output}")]
    Command { argv: String, status: String, output: String },
}

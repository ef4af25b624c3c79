//! Files that hold sandboxes: writable disks, the bytes of RAM images, and what is stored of both.
//!
//! ```text
//! disk, extents, checksum   sparse files: a disk is 10 GiB in name and a few MiB in fact, so copies move data extents
//!                           only, by reference where the file system can, and checksums are over data alone
//! sealed, private           shared files that VMMs map, with checksums, in folders that only this server may change
//! run, disk_runs            pieces of a memory or a disk on their way from one place to another
//! key, archive              stored state: compressed, encrypted, authenticated
//! store                     where archives are: a folder here, and a bucket behind it
//! pack                      whole files as parts of an archive
//! digest                    SHA-256: the names of what is named after its contents
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

pub use archive::{Archive, ArchiveError, PartStats};
pub use disk::{create_pristine_disk, free_mib};
pub use disk_runs::{disk_runs, write_disk};
pub use extents::{copy_data, copy_sparse};
pub use key::{KeyError, ServerKey};
pub use pack::{PackError, make_read_only, pack_file, unpack_file};
pub use private::{PrivateError, private_dir};
pub use run::{RUN_MAX, Run, Runs};
pub use sealed::{SealError, SealedFile, SealedFolder};
pub use store::{ArchiveStore, ArchiveWriter, Pin, RemoteConfig, Sealed, StoreConfig, StoreError, Sweep, Swept, Usage};

use leapbox_errors::FileError;

/// What a storage operation failed at.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A host program failed.
    #[error("`{argv}` ended with {status}: {output}")]
    Command { argv: String, status: String, output: String },
}

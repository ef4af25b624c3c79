//! Why a base could not be created, found, exported or imported.

use crate::folder::Refused;
use leapbox_errors::FileError;
use leapbox_guest_client::GuestError;
use leapbox_ids::{ArchiveId, BaseId};
use leapbox_network::NetworkError;
use leapbox_storage::{PackError, PrivateError, StorageError};
use leapbox_vmm::{Shape, VmmError};

/// One variant per failing step.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The folder of all snapshots is not the server's alone.
    #[error("the folder of the warm snapshots cannot be used")]
    Folder {
        #[source]
        source: PrivateError,
    },
    /// No network for the machine that boots.
    #[error("no network for a machine of {shape}")]
    Network {
        /// The shape that was wanted.
        shape: Shape,
        #[source]
        source: NetworkError,
    },
    /// No disk.
    #[error("no disk for a machine of {shape}")]
    Disk {
        /// The shape that was wanted.
        shape: Shape,
        #[source]
        source: StorageError,
    },
    /// The VMM failed.
    #[error("booting a machine of {shape} failed")]
    Vmm {
        /// The shape that was wanted.
        shape: Shape,
        #[source]
        source: VmmError,
    },
    /// The guest's agent never got ready.
    #[error("the agent in a machine of {shape} did not get ready; its console ends: {console}")]
    Agent {
        /// The shape that was wanted.
        shape: Shape,
        /// End of the guest's console.
        console: String,
        #[source]
        source: GuestError,
    },
    /// A base that was just created or imported could not be sealed.
    #[error("the warm snapshot {what} could not be stored")]
    Seal {
        /// The shape that was wanted, or the base's id.
        what: String,
        #[source]
        source: SealFailed,
    },
    /// A base could not be exported to its archive, or not be imported from it.
    #[error("the warm snapshot {id} and its archive")]
    Archive {
        id: BaseId,
        #[source]
        source: Box<PackError>,
    },
    /// What is to be imported is no base.
    #[error("{archive} is not the archive of a warm snapshot")]
    NotABase { archive: ArchiveId },
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why a folder did not become a base.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SealFailed(#[from] Refused);

impl BaseError {
    pub(crate) fn seal(shape: Shape, reason: Refused) -> Self {
        BaseError::Seal { what: format!("of {shape}"), source: SealFailed(reason) }
    }
}

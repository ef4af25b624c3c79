//! Errors of creating, finding, exporting and importing bases.

use crate::folder::Refused;
use leapbox_errors::FileError;
use leapbox_guest_client::GuestError;
use leapbox_ids::{ArchiveId, BaseId};
use leapbox_network::NetworkError;
use leapbox_storage::{PackError, PrivateError, StorageError};
use leapbox_vmm::{Shape, VmmError};

/// The step at which an operation on a base failed.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The directory is not the server's alone, or could not be made so.
    #[error("the directory of the bases cannot be used")]
    Folder {
        #[source]
        source: PrivateError,
    },
    #[error("no network slot could be had to boot a machine of {shape}")]
    Network {
        shape: Shape,
        #[source]
        source: NetworkError,
    },
    #[error("the disk of a machine of {shape} could not be made")]
    Disk {
        shape: Shape,
        #[source]
        source: StorageError,
    },
    #[error("booting a machine of {shape} failed")]
    Vmm {
        shape: Shape,
        #[source]
        source: VmmError,
    },
    #[error("the agent in a machine of {shape} did not get ready; its console ends: {console}")]
    Agent {
        shape: Shape,
        console: String,
        #[source]
        source: GuestError,
    },
    /// A base that was just created or imported could not be sealed.
    #[error("the base {what} could not be stored")]
    Seal {
        /// "of" and the shape of a base that was created, or the id of one that was imported.
        what: String,
        #[source]
        source: SealFailed,
    },
    #[error("the base {id} could not be exported to its archive, or not be imported from it")]
    Archive {
        id: BaseId,
        #[source]
        source: Box<PackError>,
    },
    /// An archive of another kind was to be imported.
    #[error("{archive} is not the archive of a base")]
    NotABase { archive: ArchiveId },
    #[error(transparent)]
    File(#[from] FileError),
}

/// The reason a directory could not be sealed as a base.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SealFailed(#[from] Refused);

impl BaseError {
    pub(crate) fn seal(shape: Shape, reason: Refused) -> Self {
        BaseError::Seal { what: format!("of {shape}"), source: SealFailed(reason) }
    }
}

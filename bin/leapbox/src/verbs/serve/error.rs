//! Why the server could not start or go on.

use crate::verbs::driver::DriverRefused;
use leapbox_errors::FileError;
use std::net::SocketAddr;
use std::path::PathBuf;

/// One variant per failing step.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another server has the folder.
    #[error("another server is using {dir}; stop it, or give this one a --data-dir of its own")]
    AlreadyServing { dir: PathBuf },
    /// An operating system call failed.
    #[error("{step}")]
    System {
        step: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// An address cannot be listened on.
    #[error("listening on {address}; is another server there?")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    /// The state folder failed.
    #[error(transparent)]
    State(#[from] FileError),
    /// The database failed.
    #[error("opening the database")]
    Db(#[from] leapbox_db::DbError),
    /// The server's key cannot be used.
    #[error("reading the server's key")]
    Key(#[from] leapbox_storage::KeyError),
    /// What is stored of sandboxes cannot be reached.
    #[error("opening the archives")]
    Archives(#[from] leapbox_storage::StoreError),
    /// The configured driver cannot be used.
    #[error(transparent)]
    Driver(#[from] DriverRefused),
    /// The driver failed.
    #[error("starting the VMM driver")]
    Vmm(#[from] leapbox_vmm::VmmError),
    /// The network failed.
    #[error("preparing the network")]
    Network(#[from] leapbox_network::NetworkError),
    /// Nothing has been built yet, or it is damaged.
    #[error(transparent)]
    Artifacts(#[from] leapbox_templates::ArtifactError),
    /// The lifecycle failed.
    #[error("starting the lifecycle")]
    Lifecycle(#[from] leapbox_lifecycle::StartError),
    /// No certificate.
    #[error("reading the gateway's certificate; without one of your own, run `leapbox setup`")]
    Tls(#[from] leapbox_gateway::tls::TlsError),
}

pub(super) fn system(step: &'static str) -> impl FnOnce(std::io::Error) -> ServeError {
    move |source| ServeError::System { step, source }
}

pub(super) fn listen(address: SocketAddr) -> impl FnOnce(std::io::Error) -> ServeError {
    move |source| ServeError::Listen { address, source }
}

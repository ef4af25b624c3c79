//! The error that ends `leapbox serve`.

use super::identity::IdentityError;
use crate::verbs::driver::DriverRefused;
use leapbox_errors::FileError;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A step of starting or running the server that failed. Its texts and causes are printed to the operator.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another server holds the lock of the state directory.
    #[error("another server is using {dir}; stop it, or give this one a --data-dir of its own")]
    AlreadyServing { dir: PathBuf },
    /// A system call failed in a step that has no variant of its own.
    #[error("{step}")]
    System {
        step: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("listening on {address}; is another server there?")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    /// A file of the state directory could not be read or written.
    #[error(transparent)]
    State(#[from] FileError),
    #[error("opening the database")]
    Db(#[from] leapbox_db::DbError),
    /// Database, key, archives and instance do not belong together.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("opening the store of paused sandboxes and snapshots")]
    Archives(#[from] leapbox_storage::StoreError),
    /// Firecracker is configured and cannot be used on this host.
    #[error(transparent)]
    Driver(#[from] DriverRefused),
    #[error("starting the VMM driver")]
    Vmm(#[from] leapbox_vmm::VmmError),
    #[error("preparing the network")]
    Network(#[from] leapbox_network::NetworkError),
    /// Kernel, initramfs and templates have not been built yet, or are damaged.
    #[error(transparent)]
    Artifacts(#[from] leapbox_templates::ArtifactError),
    #[error("starting the lifecycle of sandboxes")]
    Lifecycle(#[from] leapbox_lifecycle::StartError),
    #[error("reading the gateway's certificate; without one of your own, run `leapbox setup`")]
    Tls(#[from] leapbox_gateway::tls::TlsError),
}

/// Makes a closure for `map_err` that adds the step to a system error.
pub(super) fn system(step: &'static str) -> impl FnOnce(std::io::Error) -> ServeError {
    move |source| ServeError::System { step, source }
}

/// Makes a closure for `map_err` that adds the address to an error of binding it.
pub(super) fn listen(address: SocketAddr) -> impl FnOnce(std::io::Error) -> ServeError {
    move |source| ServeError::Listen { address, source }
}

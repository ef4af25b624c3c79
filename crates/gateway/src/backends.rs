//! What the gateway needs from the rest of the house: who asks, and a byte stream to the application meant.
//!
//! `leapbox serve` implements it over keys and lifecycle; tests and the benchmark implement it over a plain TCP address.

use http::HeaderMap;
use leapbox_api_types::ApiError;
use leapbox_ids::{OrganisationId, SandboxId};
use std::future::Future;
use tokio::net::TcpStream;

/// Keys, and sandboxes by id.
pub trait Backends: Send + Sync + 'static {
    /// An application in a sandbox that runs.
    type Backend: Backend;

    /// The organisation whose key these headers carry.
    fn authenticate(&self, headers: &HeaderMap) -> impl Future<Output = Result<OrganisationId, ApiError>> + Send;

    /// Finds the sandbox, wakes it if it sleeps, and names the application: on `port`, or where none is given on the
    /// one the sandbox's image names. Unknown and foreign sandboxes must give the same error.
    fn find(
        &self,
        organisation: &OrganisationId,
        id: &SandboxId,
        port: Option<u16>,
    ) -> impl Future<Output = Result<Self::Backend, ApiError>> + Send;
}

/// One application: a port in a sandbox that runs.
pub trait Backend: Send + Sync + 'static {
    fn port(&self) -> u16;

    /// A new byte stream to it. Called in the runtime of the gateway's worker, so that the stream belongs to the
    /// thread that will use it; a task that has to outlive the call must not be spawned from here.
    fn open(&self) -> impl Future<Output = Result<TcpStream, OpenError>> + Send;

    /// Comes to an end when the sandbox does not run any more where it was found: it is being stored, is paused or gone.
    /// Finding it again waits for it, or wakes it.
    fn left(&self) -> impl Future<Output = ()> + Send;
}

/// Why there is no stream to the application.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The sandbox answers, but no process listens on the port.
    #[error("nothing listens on the port")]
    NothingListens,
    /// The sandbox has as many streams open as it takes.
    #[error("too many streams into the sandbox are open")]
    Busy,
    /// The sandbox itself could not be asked.
    #[error("the sandbox could not be reached")]
    Unreachable {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

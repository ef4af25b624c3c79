//! The gateway's interface to the rest of the server: whose key a request carries, and a byte stream to the
//! application.
//!
//! `leapbox serve` implements it over `auth` and `lifecycle`; tests and the benchmark implement it over a TCP address.

use http::HeaderMap;
use leapbox_api_types::ApiError;
use leapbox_ids::{OrganisationId, SandboxId};
use std::future::Future;
use tokio::net::TcpStream;

/// Authenticates requests and finds sandboxes. Its futures are polled inside the server's runtime.
pub trait Backends: Send + Sync + 'static {
    /// An application in a running sandbox.
    type Backend: Backend;

    /// The organisation whose key these headers carry; 401 without a valid one.
    fn authenticate(&self, headers: &HeaderMap) -> impl Future<Output = Result<OrganisationId, ApiError>> + Send;

    /// Finds the sandbox, wakes it if it is paused, and names the application: on `port`, or without one on the port
    /// that the sandbox's image names. An unknown sandbox and another organisation's must give the same error.
    fn find(
        &self,
        organisation: &OrganisationId,
        id: &SandboxId,
        port: Option<u16>,
    ) -> impl Future<Output = Result<Self::Backend, ApiError>> + Send;
}

/// One application: a port in a running sandbox.
pub trait Backend: Send + Sync + 'static {
    fn port(&self) -> u16;

    /// Opens a byte stream to the application. It is called in the worker's runtime, so that the stream belongs to the
    /// thread that uses it. For the same reason a task that has to outlive the call must not be spawned in it.
    fn open(&self) -> impl Future<Output = Result<TcpStream, OpenError>> + Send;

    /// Resolves once the sandbox no longer runs in the machine in which it was found: it is being stored, is paused, or
    /// has ended. [`Backends::find`] then waits for it, wakes it, or says that it is gone.
    fn left(&self) -> impl Future<Output = ()> + Send;
}

/// No stream to the application could be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The sandbox answers, but no process listens on the port.
    #[error("nothing listens on the port")]
    NothingListens,
    /// The sandbox's agent has all its permits for connections in use.
    #[error("too many streams into the sandbox are open")]
    Busy,
    /// The sandbox's agent did not answer, or not as it should.
    #[error("the sandbox could not be reached")]
    Unreachable {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

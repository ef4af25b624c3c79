//! Answers the gateway's questions from `auth` and `lifecycle`: who calls, and which sandbox serves the call.

use http::HeaderMap;
use leapbox_api_types::ApiError;
use leapbox_auth::Auth;
use leapbox_gateway::{Backend, Backends, OpenError};
use leapbox_guest_client::GuestError;
use leapbox_guest_protocol::FaultKind;
use leapbox_ids::{OrganisationId, SandboxId};
use leapbox_lifecycle::{Lifecycle, RunningSandbox};
use std::sync::Arc;
use tokio::net::TcpStream;

/// The gateway's backends: every sandbox of the server.
pub(super) struct Sandboxes {
    auth: Arc<Auth>,
    lifecycle: Lifecycle,
}

impl Sandboxes {
    pub fn new(auth: Arc<Auth>, lifecycle: Lifecycle) -> Self {
        Self { auth, lifecycle }
    }
}

/// An application: a port of a running sandbox.
pub(super) struct Application {
    sandbox: RunningSandbox,
    port: u16,
}

impl Backends for Sandboxes {
    type Backend = Application;

    async fn authenticate(&self, headers: &HeaderMap) -> Result<OrganisationId, ApiError> {
        Ok(self.auth.authenticate(headers).await?.organisation)
    }

    async fn find(
        &self,
        organisation: &OrganisationId,
        id: &SandboxId,
        port: Option<u16>,
    ) -> Result<Application, ApiError> {
        // The one way into a sandbox: it checks the organisation, wakes a paused sandbox, and waits for one in
        // transition.
        let running = self.lifecycle.ensure_running(organisation, id).await?;
        let port = port.or(running.image.port).ok_or_else(|| {
            let text =
                format!("the template of {id} has no default port; put one into the host name: {id}-<port>.<domain>");
            ApiError::BadRequest(text)
        })?;
        Ok(Application { sandbox: running, port })
    }
}

impl Backend for Application {
    fn port(&self) -> u16 {
        self.port
    }

    async fn open(&self) -> Result<TcpStream, OpenError> {
        // The guest's refusals are told apart, because clients get other answers for them than for a dead guest.
        self.sandbox.guest.connect_port(self.port).await.map_err(|error| match error {
            GuestError::Fault(fault) if fault.kind == FaultKind::ConnectionRefused => OpenError::NothingListens,
            GuestError::Fault(fault) if fault.kind == FaultKind::Busy => OpenError::Busy,
            error => OpenError::Unreachable { source: error.into() },
        })
    }

    async fn left(&self) {
        self.sandbox.left().await;
    }
}

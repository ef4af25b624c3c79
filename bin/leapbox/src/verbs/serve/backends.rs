//! What the gateway asks: keys and sandboxes, from the rooms that know them.

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

/// Keys, and sandboxes by id.
pub(super) struct Sandboxes {
    auth: Arc<Auth>,
    lifecycle: Lifecycle,
}

impl Sandboxes {
    pub fn new(auth: Arc<Auth>, lifecycle: Lifecycle) -> Self {
        Self { auth, lifecycle }
    }
}

/// A port in a running sandbox.
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
        let running = self.lifecycle.ensure_running(organisation, id).await?;
        let port = port.or(running.image.port).ok_or_else(|| {
            let text = format!("the template of {id} names no port; name one in the address: {id}-<port>.<domain>");
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

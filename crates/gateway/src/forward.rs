//! The one path of every request: host name → key → sandbox → application.

use crate::answer;
use crate::backends::{Backend, Backends};
use crate::body::GatewayBody;
use crate::client::{Client, Order};
use crate::exchange::{Application, NotOpened, Unanswered, exchange, too_long};
use crate::headers;
use crate::host::{self, HostError, Target};
use crate::pool::Slot;
use crate::request_body::RequestBody;
use crate::shared::Shared;
use crate::stats::count;
use crate::upgrade::{self, Upgrade};
use axum::extract::ConnectInfo;
use http::header::{HeaderValue, InvalidHeaderValue};
use http::{Method, Request, Response, Uri, Version, uri};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::Service;
use leapbox_api_types::ApiError;
use leapbox_ids::{OrganisationId, SandboxId};
use std::sync::Arc;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// How often a sandbox is found for one request: it may be paused between being found and being used.
const FINDS: usize = 3;

impl<B: Backends> Shared<B> {
    /// Answers one request.
    pub(crate) async fn answer(&self, client: &Arc<Client>, request: Request<Incoming>) -> Response<GatewayBody> {
        let _open = client.open_request();
        match self.route(client, request).await {
            Ok(response) => response,
            Err(error) => answer::error(client.counters(), &error),
        }
    }

    async fn route(&self, client: &Arc<Client>, request: Request<Incoming>) -> Result<Response<GatewayBody>, ApiError> {
        if client.is_refused() {
            client.order(Order::Finish);
            return Err(ApiError::Unavailable {
                message: "too many connections are open to this gateway".to_owned(),
                retry_after_s: 1,
            });
        }
        let target = host::target(request.version(), request.uri(), request.headers(), &self.config.domain)?;
        match target {
            Target::ControlPlane => {
                count(&client.counters().requests_control);
                Ok(self.control(client, request).await)
            }
            Target::Sandbox { id, port } => {
                count(&client.counters().requests_sandbox);
                self.forward(client, &id, port, request).await
            }
        }
    }

    /// The API, under the gateway's own names.
    async fn control(&self, client: &Arc<Client>, mut request: Request<Incoming>) -> Response<GatewayBody> {
        request.extensions_mut().insert(ConnectInfo(client.peer()));
        let Ok(response) = client.worker().at_home(self.control.call(request)).await;
        response.map(GatewayBody::Control)
    }

    async fn forward(
        &self,
        client: &Arc<Client>,
        id: &SandboxId,
        port: Option<u16>,
        mut request: Request<Incoming>,
    ) -> Result<Response<GatewayBody>, ApiError> {
        let upgrade = Upgrade::wanted(&request);
        if request.method() == Method::CONNECT && upgrade.is_none() {
            return Err(ApiError::MethodNotAllowed);
        }
        let limits = &self.config.limits;
        let organisation = client.worker().at_home(self.backends.authenticate(request.headers())).await?;
        if request.body().size_hint().lower() > limits.max_request_body {
            // Not before the sandbox is known to be the caller's.
            self.find(client, &organisation, id, port).await?;
            return Err(too_long(limits));
        }
        prepare(&mut request, client)?;
        match upgrade {
            Some(kind) => self.upgrade(client, &organisation, (id, port), kind, request).await,
            None => self.send(client, &organisation, (id, port), request).await,
        }
    }

    /// The application, in a sandbox that runs, and a place in it.
    async fn find(
        &self,
        client: &Arc<Client>,
        organisation: &OrganisationId,
        id: &SandboxId,
        port: Option<u16>,
    ) -> Result<(B::Backend, Slot), ApiError> {
        let (limits, worker) = (&self.config.limits, client.worker());
        let found = timeout(limits.wake, worker.at_home(self.backends.find(organisation, id, port))).await;
        let backend = found.map_err(|_: Elapsed| late(id, limits.wake.as_secs()))??;
        let slot = self.pool.admit(id, backend.port(), worker.index).ok_or_else(|| full(id))?;
        Ok((backend, slot))
    }

    /// An ordinary request, its body streamed. One that comes just when its sandbox is paused is sent again to where the
    /// sandbox is found next.
    async fn send(
        &self,
        client: &Arc<Client>,
        organisation: &OrganisationId,
        (id, port): (&SandboxId, Option<u16>),
        request: Request<Incoming>,
    ) -> Result<Response<GatewayBody>, ApiError> {
        let limits = &self.config.limits;
        let (head, incoming) = request.into_parts();
        let (body, upload) = RequestBody::new(incoming, limits.max_request_body, client);
        let mut request = Request::from_parts(head, body);
        for _ in 0..FINDS {
            let (backend, slot) = self.find(client, organisation, id, port).await?;
            let app = Application { id, backend: &backend, limits };
            match exchange(&app, slot, client, request, upload.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(Unanswered::Error(error)) => return Err(error),
                Err(Unanswered::Left(again)) => request = *again,
            }
        }
        Err(restless(id))
    }

    /// A WebSocket. Its handshake is sent once.
    async fn upgrade(
        &self,
        client: &Arc<Client>,
        organisation: &OrganisationId,
        (id, port): (&SandboxId, Option<u16>),
        kind: Upgrade,
        request: Request<Incoming>,
    ) -> Result<Response<GatewayBody>, ApiError> {
        let limits = &self.config.limits;
        for _ in 0..FINDS {
            let (backend, slot) = self.find(client, organisation, id, port).await?;
            let app = Application { id, backend: &backend, limits };
            match app.open(&slot, client).await {
                Ok(link) => return upgrade::upgrade(&app, slot, link, client, kind, request).await,
                Err(NotOpened::Error(error)) => return Err(error),
                Err(NotOpened::Left) => {}
            }
        }
        Err(restless(id))
    }
}

/// Turns the client's request head into the application's.
fn prepare(request: &mut Request<Incoming>, client: &Client) -> Result<(), ApiError> {
    let version = request.version();
    let authority = host::authority(version, request.uri(), request.headers())?;
    let host = HeaderValue::from_str(authority).map_err(|_: InvalidHeaderValue| HostError::Malformed)?;
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or_else(|| uri::PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    leapbox_auth::strip_platform_key(headers);
    headers::towards_application(headers, version, host, client.forwarded_for());
    Ok(())
}

fn full(id: &SandboxId) -> ApiError {
    ApiError::Unavailable { message: format!("sandbox {id} has too many open requests"), retry_after_s: 1 }
}

/// It is paused as fast as it is woken.
fn restless(id: &SandboxId) -> ApiError {
    ApiError::Unavailable { message: format!("sandbox {id} was paused again before it was used"), retry_after_s: 1 }
}

fn late(id: &SandboxId, seconds: u64) -> ApiError {
    ApiError::GatewayTimeout(format!("sandbox {id} was not ready in {seconds} s"))
}

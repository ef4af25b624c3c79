//! The one path of every request: host name → key → sandbox → application.
//!
//! `connection.rs` calls [`Shared::answer`] for each request, in the connection's own task.

use crate::answer;
use crate::backends::{Backend, Backends};
use crate::body::GatewayBody;
use crate::client::{Client, ConnCommand};
use crate::exchange::{Application, NotOpened, Unanswered, exchange, too_long};
use crate::headers;
use crate::host::{self, HostError, Target};
use crate::pool::RequestPermit;
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

/// How many times a request looks for its sandbox before it is answered 503.
// A sandbox may be paused between being found and being used. A second attempt wakes it again; a sandbox that is paused
// that often in a row has a timeout too short to be waited for.
const FIND_ATTEMPTS: usize = 3;

impl<B: Backends> Shared<B> {
    /// Answers one request. Every error becomes an answer here and nowhere else.
    pub(crate) async fn answer(&self, client: &Arc<Client>, request: Request<Incoming>) -> Response<GatewayBody> {
        let _open = client.open_request();
        match self.route(client, request).await {
            Ok(response) => response,
            Err(error) => answer::error(client.counters(), &error),
        }
    }

    async fn route(&self, client: &Arc<Client>, request: Request<Incoming>) -> Result<Response<GatewayBody>, ApiError> {
        if client.is_refused() {
            // HTTP/2 has no `Connection: close`: the command ends the connection after this answer.
            client.command(ConnCommand::Finish);
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

    /// Passes a request to the control plane's router.
    async fn control(&self, client: &Arc<Client>, mut request: Request<Incoming>) -> Response<GatewayBody> {
        request.extensions_mut().insert(ConnectInfo(client.peer()));
        let Ok(response) = client.worker().on_server_runtime(self.control.call(request)).await;
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
        // Before the sandbox is looked for: without a valid key nothing is woken, and no id can be tried out.
        let organisation = client.worker().on_server_runtime(self.backends.authenticate(request.headers())).await?;
        if request.body().size_hint().lower() > limits.max_request_body {
            // Found first: to another organisation, a 413 in place of the 404 would show that the sandbox exists.
            self.find(client, &organisation, id, port).await?;
            return Err(too_long(limits));
        }
        prepare(&mut request, client)?;
        match upgrade {
            Some(kind) => self.upgrade(client, &organisation, (id, port), kind, request).await,
            None => self.send(client, &organisation, (id, port), request).await,
        }
    }

    /// Finds the application in its sandbox, waking the sandbox if it is paused, and takes a permit for one request.
    async fn find(
        &self,
        client: &Arc<Client>,
        organisation: &OrganisationId,
        id: &SandboxId,
        port: Option<u16>,
    ) -> Result<(B::Backend, RequestPermit), ApiError> {
        let (limits, worker) = (&self.config.limits, client.worker());
        // Giving up here does not end the wake, which the sandbox's own task does: the next request may find it done.
        let found = timeout(limits.wake, worker.on_server_runtime(self.backends.find(organisation, id, port))).await;
        let backend = found.map_err(|_: Elapsed| wake_timed_out(id, limits.wake.as_secs()))??;
        let permit = self.pool.admit(id, backend.port(), worker.index).ok_or_else(|| too_busy(id))?;
        Ok((backend, permit))
    }

    /// Sends an ordinary request, its body streamed. If the sandbox is paused at that moment and nothing of the request
    /// was done, the sandbox is looked for (and so woken) again, and the request sent to its new machine.
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
        for _ in 0..FIND_ATTEMPTS {
            let (backend, permit) = self.find(client, organisation, id, port).await?;
            let app = Application { id, backend: &backend, limits };
            match exchange(&app, permit, client, request, upload.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(Unanswered::Error(error)) => return Err(error),
                Err(Unanswered::Left(again)) => request = *again,
            }
        }
        Err(kept_moving(id))
    }

    /// Opens a WebSocket. Its stream may be opened again in a new machine, but the handshake is sent once.
    async fn upgrade(
        &self,
        client: &Arc<Client>,
        organisation: &OrganisationId,
        (id, port): (&SandboxId, Option<u16>),
        kind: Upgrade,
        request: Request<Incoming>,
    ) -> Result<Response<GatewayBody>, ApiError> {
        let limits = &self.config.limits;
        for _ in 0..FIND_ATTEMPTS {
            let (backend, permit) = self.find(client, organisation, id, port).await?;
            let app = Application { id, backend: &backend, limits };
            match app.open(&permit, client).await {
                Ok(stream) => return upgrade::upgrade(&app, permit, stream, client, kind, request).await,
                Err(NotOpened::Error(error)) => return Err(error),
                Err(NotOpened::Left) => {}
            }
        }
        Err(kept_moving(id))
    }
}

/// Rewrites the client's request head into the one that the application gets.
fn prepare(request: &mut Request<Incoming>, client: &Client) -> Result<(), ApiError> {
    let version = request.version();
    let authority = host::authority(version, request.uri(), request.headers())?;
    let host = HeaderValue::from_str(authority).map_err(|_: InvalidHeaderValue| HostError::Malformed)?;
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or_else(|| uri::PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    // First, on the fields as the client sent them: which of the two key headers is ours depends on both.
    leapbox_auth::strip_platform_key(headers);
    headers::towards_application(headers, version, host, client.forwarded_for());
    Ok(())
}

fn too_busy(id: &SandboxId) -> ApiError {
    ApiError::Unavailable { message: format!("sandbox {id} has too many open requests"), retry_after_s: 1 }
}

fn kept_moving(id: &SandboxId) -> ApiError {
    ApiError::Unavailable { message: format!("sandbox {id} was paused again before it was used"), retry_after_s: 1 }
}

fn wake_timed_out(id: &SandboxId, seconds: u64) -> ApiError {
    ApiError::GatewayTimeout(format!("sandbox {id} was not ready in {seconds} s"))
}

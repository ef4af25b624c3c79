//! The one path of every request: host name → key → sandbox → application.

use crate::answer;
use crate::backends::{Backend, Backends};
use crate::body::GatewayBody;
use crate::connection::{Client, Order};
use crate::exchange::{Application, exchange, too_long};
use crate::headers;
use crate::host::{self, HostError, Target};
use crate::pool::Slot;
use crate::request_body::RequestBody;
use crate::server::Shared;
use crate::stats::count;
use crate::upgrade::{self, Upgrade};
use axum::extract::ConnectInfo;
use http::header::HeaderValue;
use http::{Method, Request, Response, Uri, Version, uri};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::Service;
use leapbox_api_types::ApiError;
use leapbox_ids::SandboxId;
use std::sync::Arc;
use tokio::time::timeout;

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
        let worker = client.worker();
        let organisation = worker.at_home(self.backends.authenticate(request.headers())).await?;
        let found = timeout(limits.wake, worker.at_home(self.backends.find(&organisation, id, port))).await;
        let backend = found.map_err(|_| late(id, limits.wake.as_secs()))??;
        let slot = self.pool.admit(id, backend.port(), worker.index).ok_or_else(|| full(id))?;
        if request.body().size_hint().lower() > limits.max_request_body {
            return Err(too_long(limits));
        }
        prepare(&mut request, client)?;
        let app = Application { id, backend: &backend, limits };
        match upgrade {
            Some(kind) => upgrade::upgrade(&app, slot, client, kind, request).await,
            None => send(&app, slot, client, request).await,
        }
    }
}

/// An ordinary request, its body streamed.
async fn send<B: Backend>(
    app: &Application<'_, B>,
    slot: Slot,
    client: &Arc<Client>,
    request: Request<Incoming>,
) -> Result<Response<GatewayBody>, ApiError> {
    let (head, incoming) = request.into_parts();
    let (body, upload) = RequestBody::new(incoming, app.limits.max_request_body, client);
    let mut request = Request::new(body);
    *request.method_mut() = head.method;
    *request.uri_mut() = head.uri;
    *request.headers_mut() = head.headers;
    exchange(app, slot, client, request, upload).await
}

/// Turns the client's request head into the application's.
fn prepare(request: &mut Request<Incoming>, client: &Client) -> Result<(), ApiError> {
    let version = request.version();
    let authority = host::authority(version, request.uri(), request.headers())?;
    let host = HeaderValue::from_str(authority).map_err(|_| HostError::Malformed)?;
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

fn late(id: &SandboxId, seconds: u64) -> ApiError {
    ApiError::GatewayTimeout(format!("sandbox {id} was not ready in {seconds} s"))
}

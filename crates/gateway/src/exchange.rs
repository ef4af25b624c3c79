//! One request to an application and the head of its answer: kept connection or new one, deadlines, one retry.
//!
//! A kept connection may have died unnoticed. A request is sent a second time only if it did so, and only if not a byte
//! of it was sent, or if it is safe (RFC 9110 §9.2.1) and has no body.

use crate::backends::{Backend, OpenError};
use crate::body::GatewayBody;
use crate::client::Client;
use crate::config::Limits;
use crate::headers;
use crate::link::Link;
use crate::pool::Slot;
use crate::request_body::{RequestBody, Upload};
use crate::stats::count;
use crate::upstream::{SendError, Upstream, UpstreamBody};
use http::{Method, Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use leapbox_api_types::ApiError;
use leapbox_errors::chain;
use leapbox_ids::SandboxId;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// The application a request is for, as error messages name it.
pub(crate) struct Application<'a, B> {
    pub(crate) id: &'a SandboxId,
    pub(crate) backend: &'a B,
    pub(crate) limits: &'a Limits,
}

/// From a connection's death to the word that the sandbox left.
const LEAVING_NOTICE: Duration = Duration::from_millis(50);

/// Why there is no answer.
pub(crate) enum Unanswered {
    /// What the client reads.
    Error(ApiError),
    /// The sandbox left first, to be paused or stored, and nothing of the request has been done: it can be sent again
    /// once the sandbox is found again.
    Left(Box<Request<RequestBody>>),
}

impl From<ApiError> for Unanswered {
    fn from(error: ApiError) -> Self {
        Unanswered::Error(error)
    }
}

/// Why there is no stream into the sandbox.
pub(crate) enum NotOpened {
    /// What the client reads.
    Error(ApiError),
    /// The sandbox left.
    Left,
}

/// Why there is no answer to pass on.
enum Failure {
    Send(SendError),
    Deadline,
}

/// Sends the request and returns the answer, its body still to be streamed.
pub(crate) async fn exchange<B: Backend>(
    app: &Application<'_, B>,
    slot: Slot,
    client: &Arc<Client>,
    mut request: Request<RequestBody>,
    upload: Option<Arc<Upload>>,
) -> Result<Response<GatewayBody>, Unanswered> {
    if let Some(mut upstream) = slot.kept().await {
        count(&client.counters().upstream_reused);
        let again = replay(&request);
        match send(&mut upstream, request, upload.as_deref(), app.limits.response_head).await {
            Ok(answer) => return Ok(app.pass(answer, upstream, upload.as_deref(), slot, client).await?),
            Err(failure) => request = app.again(failure, again, upload.as_deref()).await?,
        }
        count(&client.counters().upstream_retried);
    }
    let link = match app.open(&slot, client).await {
        Ok(link) => link,
        Err(NotOpened::Left) => return Err(Unanswered::Left(Box::new(request))),
        Err(NotOpened::Error(error)) => return Err(error.into()),
    };
    let mut upstream = match Upstream::new(link, app.limits.max_header_bytes).await {
        Ok(upstream) => Box::new(upstream),
        Err(_) if app.left().await => return Err(Unanswered::Left(Box::new(request))),
        Err(error) => return Err(app.explain(Failure::Send(SendError { error, unsent: None }), None).into()),
    };
    let again = replay(&request);
    match send(&mut upstream, request, upload.as_deref(), app.limits.response_head).await {
        Ok(answer) => Ok(app.pass(answer, upstream, upload.as_deref(), slot, client).await?),
        Err(failure) if failure.is_dead_connection() && app.left().await => {
            Err(Unanswered::Left(Box::new(app.again(failure, again, upload.as_deref()).await?)))
        }
        Err(failure) => Err(app.explain(failure, upload.as_deref()).into()),
    }
}

/// The request once more, if sending it twice does no harm.
fn replay(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !is_safe || !request.body().is_empty() {
        return None;
    }
    let mut again = Request::new(RequestBody::empty());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    Some(again)
}

/// Sends over one connection. The deadline runs from the end of the upload; a stalled upload is the watchdog's.
async fn send(
    upstream: &mut Upstream,
    request: Request<RequestBody>,
    upload: Option<&Upload>,
    deadline: Duration,
) -> Result<Response<Incoming>, Failure> {
    let mut answer = pin!(upstream.send(request));
    let mut expiry = pin!(None);
    poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(answer.map_err(Failure::Send));
        }
        if upload.is_some_and(|upload| !upload.poll_ended(cx)) {
            return Poll::Pending;
        }
        if expiry.is_none() {
            expiry.set(Some(sleep(deadline)));
        }
        match expiry.as_mut().as_pin_mut().map(|expiry| expiry.poll(cx)) {
            Some(Poll::Ready(())) => Poll::Ready(Err(Failure::Deadline)),
            Some(Poll::Pending) | None => Poll::Pending,
        }
    })
    .await
}

impl Failure {
    /// The connection was closed before any answer.
    fn is_dead_connection(&self) -> bool {
        match self {
            Failure::Send(failed) => {
                let error = &failed.error;
                !error.is_parse() && !error.is_user() && !error.is_timeout()
            }
            Failure::Deadline => false,
        }
    }
}

impl<B: Backend> Application<'_, B> {
    /// The request again, if it may be sent again after it failed on a connection that died; otherwise what the client
    /// reads.
    async fn again(
        &self,
        failure: Failure,
        replay: Option<Request<RequestBody>>,
        upload: Option<&Upload>,
    ) -> Result<Request<RequestBody>, ApiError> {
        match (failure, replay) {
            (Failure::Send(SendError { unsent: Some(unsent), .. }), _) => Ok(*unsent),
            (failure, Some(replay)) if failure.is_dead_connection() => Ok(replay),
            (failure, _) if failure.is_dead_connection() && self.left().await => Err(self.interrupted()),
            (failure, _) => Err(self.explain(failure, upload)),
        }
    }

    /// Whether the sandbox has left, or is told to have in a moment.
    async fn left(&self) -> bool {
        timeout(LEAVING_NOTICE, self.backend.left()).await.is_ok()
    }

    /// The 503 for a request that cannot be sent a second time.
    fn interrupted(&self) -> ApiError {
        let message = format!("sandbox {} was paused while this request used it; it may or may not be done", self.id);
        ApiError::Unavailable { message, retry_after_s: 1 }
    }

    /// A new stream to the application.
    pub(crate) async fn open(&self, slot: &Slot, client: &Client) -> Result<Link, NotOpened> {
        tokio::select! {
            biased;
            opened = self.try_open(slot, client) => match opened {
                Err(_) if self.left().await => Err(NotOpened::Left),
                opened => opened.map_err(NotOpened::Error),
            },
            () = self.backend.left() => Err(NotOpened::Left),
        }
    }

    async fn try_open(&self, slot: &Slot, client: &Client) -> Result<Link, ApiError> {
        let (id, port) = (self.id, self.backend.port());
        match timeout(self.limits.connect, self.backend.open()).await {
            Ok(Ok(socket)) => {
                if let Err(error) = socket.set_nodelay(true) {
                    tracing::debug!(error = %chain(&error), "could not set TCP_NODELAY on a connection into a sandbox");
                }
                count(&client.counters().upstream_opened);
                Ok(slot.adopt(socket))
            }
            Ok(Err(OpenError::NothingListens)) => Err(ApiError::BadGateway(format!(
                "nothing listens on port {port} in sandbox {id}; start a server on it, or name another port in the \
                 address: {id}-<port>"
            ))),
            Ok(Err(OpenError::Busy)) => Err(ApiError::Unavailable {
                message: format!("sandbox {id} has too many connections open"),
                retry_after_s: 1,
            }),
            Ok(Err(OpenError::Unreachable { source })) => {
                tracing::warn!(sandbox = %id, port, error = %chain(&*source), "no stream into the sandbox");
                Err(ApiError::BadGateway(format!("sandbox {id} could not be reached for port {port}")))
            }
            Err(_) => Err(ApiError::GatewayTimeout(format!(
                "port {port} in sandbox {id} did not take a connection in {} s",
                self.limits.connect.as_secs()
            ))),
        }
    }

    /// The answer as the client gets it.
    async fn pass(
        &self,
        answer: Response<Incoming>,
        mut upstream: Box<Upstream>,
        upload: Option<&Upload>,
        slot: Slot,
        client: &Arc<Client>,
    ) -> Result<Response<GatewayBody>, ApiError> {
        client.moved();
        if answer.status().is_informational() {
            return Err(self.bad("switched protocols without being asked to"));
        }
        let upload_goes_on = upload.is_some_and(|upload| !upload.has_ended());
        let (mut head, incoming) = answer.into_parts();
        headers::towards_client(&mut head.headers);
        head.version = Version::HTTP_11;
        if !incoming.is_end_stream() {
            let body = UpstreamBody::new(incoming, upstream, upload_goes_on, slot, Arc::clone(client));
            return Ok(Response::from_parts(head, GatewayBody::Upstream(body)));
        }
        if !upload_goes_on && upstream.is_reusable().await {
            slot.give_back(upstream);
        }
        Ok(Response::from_parts(head, GatewayBody::Empty))
    }

    /// A 502 that says what the application did.
    pub(crate) fn bad(&self, what: &str) -> ApiError {
        ApiError::BadGateway(format!("the application on port {} in sandbox {} {what}", self.backend.port(), self.id))
    }

    /// The 504 for an application that does not answer.
    pub(crate) fn late(&self) -> ApiError {
        let (id, port, seconds) = (self.id, self.backend.port(), self.limits.response_head.as_secs());
        ApiError::GatewayTimeout(format!(
            "the application on port {port} in sandbox {id} did not answer in {seconds} s"
        ))
    }

    /// What the client reads about a failed exchange.
    fn explain(&self, failure: Failure, upload: Option<&Upload>) -> ApiError {
        match failure {
            Failure::Deadline => self.late(),
            Failure::Send(_) if upload.is_some_and(Upload::is_too_long) => too_long(self.limits),
            Failure::Send(failed) => self.explain_http(&failed.error),
        }
    }

    /// The same, for what HTTP itself reports.
    pub(crate) fn explain_http(&self, error: &hyper::Error) -> ApiError {
        tracing::debug!(sandbox = %self.id, port = self.backend.port(), error = %chain(&error), "the application gave no answer");
        if error.is_parse_too_large() {
            return self.bad(&format!("answered with headers of more than {} bytes", self.limits.max_header_bytes));
        }
        if error.is_parse() {
            return self.bad("answered with something that is not HTTP/1.1");
        }
        self.bad("closed the connection without answering")
    }
}

/// The refusal of a request body.
pub(crate) fn too_long(limits: &Limits) -> ApiError {
    ApiError::PayloadTooLarge(format!("a request's body may have {} bytes at most", limits.max_request_body))
}

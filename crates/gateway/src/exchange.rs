//! One request to an application and the head of its answer: idle connection or new one, deadlines, one retry.
//!
//! ```text
//! idle connection ──sent──► answer        dead: not a byte sent, or safe without a body ─► new connection
//!                                               anything else ─► 502, or 503 if the sandbox was paused
//! new connection  ──sent──► answer        dead: the sandbox was paused ─► `forward.rs` finds it again
//! ```
//! An idle connection may have died unnoticed. A request is sent a second time only if that happened, and only if not a
//! byte of it was sent, or if it is safe (RFC 9110 §9.2.1) and has no body: nothing is ever done twice.

use crate::backends::{Backend, OpenError};
use crate::body::GatewayBody;
use crate::client::Client;
use crate::config::Limits;
use crate::headers;
use crate::pool::RequestPermit;
use crate::request_body::{RequestBody, Upload};
use crate::revocable::RevocableStream;
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

/// The application that a request is for. The texts of its errors name sandbox and port.
pub(crate) struct Application<'a, B> {
    pub(crate) id: &'a SandboxId,
    pub(crate) backend: &'a B,
    pub(crate) limits: &'a Limits,
}

/// How long a failed connection waits for the news that its sandbox has left the machine.
// A guest that ends by itself breaks its connections before its VMM's end is noticed and published. Without this wait
// the client would read of a closed connection, and not why its sandbox is gone.
const LEAVING_NOTICE: Duration = Duration::from_millis(50);

/// The outcome of a request that got no answer.
pub(crate) enum Unanswered {
    /// The error that the client gets.
    Error(ApiError),
    /// The sandbox left its machine before anything of the request was done. It can be sent again once the sandbox is
    /// found again.
    Left(Box<Request<RequestBody>>),
}

impl From<ApiError> for Unanswered {
    fn from(error: ApiError) -> Self {
        Unanswered::Error(error)
    }
}

/// The outcome of a stream that could not be opened.
pub(crate) enum NotOpened {
    /// The error that the client gets.
    Error(ApiError),
    /// The sandbox left its machine; finding it again may help.
    Left,
}

/// A failure on one connection.
enum Failure {
    Send(SendError),
    Deadline,
}

/// Sends the request and returns the answer, its body still to be streamed.
pub(crate) async fn exchange<B: Backend>(
    app: &Application<'_, B>,
    permit: RequestPermit,
    client: &Arc<Client>,
    mut request: Request<RequestBody>,
    upload: Option<Arc<Upload>>,
) -> Result<Response<GatewayBody>, Unanswered> {
    if let Some(mut upstream) = permit.take_idle().await {
        count(&client.counters().upstream_reused);
        let copy = replay(&request);
        match send(&mut upstream, request, upload.as_deref(), app.limits.response_head).await {
            Ok(answer) => return Ok(app.pass(answer, upstream, upload.as_deref(), permit, client).await?),
            Err(failure) => request = app.to_resend(failure, copy, upload.as_deref()).await?,
        }
        count(&client.counters().upstream_retried);
    }
    let stream = match app.open(&permit, client).await {
        Ok(stream) => stream,
        Err(NotOpened::Left) => return Err(Unanswered::Left(Box::new(request))),
        Err(NotOpened::Error(error)) => return Err(error.into()),
    };
    let mut upstream = match Upstream::new(stream, app.limits.max_header_bytes).await {
        Ok(upstream) => Box::new(upstream),
        Err(_) if app.has_left().await => return Err(Unanswered::Left(Box::new(request))),
        Err(error) => return Err(app.explain(Failure::Send(SendError { error, unsent: None }), None).into()),
    };
    let copy = replay(&request);
    match send(&mut upstream, request, upload.as_deref(), app.limits.response_head).await {
        Ok(answer) => Ok(app.pass(answer, upstream, upload.as_deref(), permit, client).await?),
        // A new connection that dies is the application's doing, and a retry would only repeat it, unless the sandbox
        // has left: then its next machine can answer.
        Err(failure) if failure.is_dead_connection() && app.has_left().await => {
            Err(Unanswered::Left(Box::new(app.to_resend(failure, copy, upload.as_deref()).await?)))
        }
        Err(failure) => Err(app.explain(failure, upload.as_deref()).into()),
    }
}

/// A copy of the request, if sending it twice does no harm: a safe method, and no body.
fn replay(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !is_safe || !request.body().is_empty() {
        return None;
    }
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// Sends the request over one connection and waits for the head of the answer, at most `deadline` from the end of the
/// upload.
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
        // An upload takes as long as it takes: only the watchdog ends one, when no byte of it moves any more.
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
    /// Whether the connection was closed before any answer came.
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
    /// The request as it may be sent again after `failure` on a connection, or the error that the client gets instead.
    async fn to_resend(
        &self,
        failure: Failure,
        replay: Option<Request<RequestBody>>,
        upload: Option<&Upload>,
    ) -> Result<Request<RequestBody>, ApiError> {
        match (failure, replay) {
            // hyper returns a request of which it has written nothing.
            (Failure::Send(SendError { unsent: Some(unsent), .. }), _) => Ok(*unsent),
            (failure, Some(replay)) if failure.is_dead_connection() => Ok(replay),
            (failure, _) if failure.is_dead_connection() && self.has_left().await => Err(self.interrupted()),
            (failure, _) => Err(self.explain(failure, upload)),
        }
    }

    /// Whether the sandbox has left its machine, or the news of it comes within [`LEAVING_NOTICE`].
    async fn has_left(&self) -> bool {
        timeout(LEAVING_NOTICE, self.backend.left()).await.is_ok()
    }

    /// The 503 for a request that was cut off by a pause and cannot be sent a second time.
    fn interrupted(&self) -> ApiError {
        let message = format!("sandbox {} was paused while this request used it; it may or may not be done", self.id);
        ApiError::Unavailable { message, retry_after_s: 1 }
    }

    /// Opens a stream to the application, registered under `permit` so that it closes with the sandbox.
    pub(crate) async fn open(&self, permit: &RequestPermit, client: &Client) -> Result<RevocableStream, NotOpened> {
        tokio::select! {
            // A stream that is ready counts, even if the sandbox leaves at the same moment: its first use shows that.
            biased;
            opened = self.try_open(permit, client) => match opened {
                Err(_) if self.has_left().await => Err(NotOpened::Left),
                opened => opened.map_err(NotOpened::Error),
            },
            () = self.backend.left() => Err(NotOpened::Left),
        }
    }

    async fn try_open(&self, permit: &RequestPermit, client: &Client) -> Result<RevocableStream, ApiError> {
        let (id, port) = (self.id, self.backend.port());
        match timeout(self.limits.connect, self.backend.open()).await {
            Ok(Ok(socket)) => {
                if let Err(error) = socket.set_nodelay(true) {
                    tracing::debug!(error = %chain(&error), "could not set TCP_NODELAY on a connection into a sandbox");
                }
                count(&client.counters().upstream_opened);
                Ok(permit.register(socket))
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
                let text = "could not open a stream into the sandbox";
                tracing::warn!(sandbox = %id, port, error = %chain(&*source), "{text}");
                Err(ApiError::BadGateway(format!("sandbox {id} could not be reached to open port {port}")))
            }
            Err(_) => Err(ApiError::GatewayTimeout(format!(
                "port {port} in sandbox {id} did not take a connection in {} s",
                self.limits.connect.as_secs()
            ))),
        }
    }

    /// Turns the application's answer into the client's, and returns the connection to the pool when it is free.
    async fn pass(
        &self,
        answer: Response<Incoming>,
        mut upstream: Box<Upstream>,
        upload: Option<&Upload>,
        permit: RequestPermit,
        client: &Arc<Client>,
    ) -> Result<Response<GatewayBody>, ApiError> {
        client.note_activity();
        // hyper consumes the other 1xx answers itself, so this is a 101, after which the connection is no longer HTTP.
        if answer.status().is_informational() {
            return Err(self.bad_answer("switched protocols without being asked to"));
        }
        let upload_goes_on = upload.is_some_and(|upload| !upload.has_ended());
        let (mut head, incoming) = answer.into_parts();
        headers::towards_client(&mut head.headers);
        // hyper writes the version it finds here: an application's HTTP/1.0 would end the client's keep-alive.
        head.version = Version::HTTP_11;
        if !incoming.is_end_stream() {
            let body = UpstreamBody::new(incoming, upstream, upload_goes_on, permit, Arc::clone(client));
            return Ok(Response::from_parts(head, GatewayBody::Upstream(body)));
        }
        // The rest of an upload would be read as the next request on this connection.
        if !upload_goes_on && upstream.is_reusable().await {
            permit.return_idle(upstream);
        }
        Ok(Response::from_parts(head, GatewayBody::Empty))
    }

    /// The 502 for an answer that cannot be passed on; `what` completes "the application …".
    pub(crate) fn bad_answer(&self, what: &str) -> ApiError {
        ApiError::BadGateway(format!("the application on port {} in sandbox {} {what}", self.backend.port(), self.id))
    }

    /// The 504 for an application that did not begin its answer in time.
    pub(crate) fn answer_timed_out(&self) -> ApiError {
        let (id, port, seconds) = (self.id, self.backend.port(), self.limits.response_head.as_secs());
        ApiError::GatewayTimeout(format!(
            "the application on port {port} in sandbox {id} did not answer in {seconds} s"
        ))
    }

    /// The error that the client gets for a failed exchange.
    fn explain(&self, failure: Failure, upload: Option<&Upload>) -> ApiError {
        match failure {
            Failure::Deadline => self.answer_timed_out(),
            // hyper reports an upload that we have cut off at its limit as a failure to send.
            Failure::Send(_) if upload.is_some_and(Upload::is_too_long) => too_long(self.limits),
            Failure::Send(failed) => self.explain_http(&failed.error),
        }
    }

    /// The error that the client gets for a failure in HTTP itself. The log has hyper's own words at level debug,
    /// because an application can cause it with every request.
    pub(crate) fn explain_http(&self, error: &hyper::Error) -> ApiError {
        let (id, port) = (self.id, self.backend.port());
        tracing::debug!(sandbox = %id, port, error = %chain(&error), "the application gave no valid answer");
        if error.is_parse_too_large() {
            let most = self.limits.max_header_bytes;
            return self.bad_answer(&format!("answered with headers of more than {most} bytes"));
        }
        if error.is_parse() {
            return self.bad_answer("answered with something that is not HTTP/1.1");
        }
        self.bad_answer("closed the connection without answering")
    }
}

/// The 413 for a request's body.
pub(crate) fn too_long(limits: &Limits) -> ApiError {
    ApiError::PayloadTooLarge(format!("a request's body may have {} bytes at most", limits.max_request_body))
}

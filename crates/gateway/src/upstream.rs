//! One HTTP/1.1 connection to an application, and an answer's body read from it.
//!
//! ```text
//!   pool ──take──► Upstream ──send──► head ──► UpstreamBody ──last byte──► pool
//! ```
//!
//! A connection has no task of its own: whoever waits for the answer or reads its body also drives the connection.
//! That keeps a request in one task from the client's socket to the application's (no wake-ups between threads, and
//! backpressure for free), and dropping the answer drops the connection. The exception is an answer that begins while
//! the upload still goes on: then the two directions must not wait for each other, so a task drives the connection.

mod body;

pub(crate) use body::UpstreamBody;

use crate::link::Link;
use crate::request_body::RequestBody;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use tokio::task::JoinHandle;

/// Bytes an answer's body is read in at most, per connection.
const READ_BUFFER: usize = 256 * 1024;

pub(crate) type UpstreamConnection = Connection<TokioIo<Link>, RequestBody>;

/// A connection to an application.
pub(crate) struct Upstream {
    sender: SendRequest<RequestBody>,
    /// Gone once it has ended.
    connection: Option<UpstreamConnection>,
}

/// A request that was not answered.
pub(crate) struct SendError {
    pub(crate) error: hyper::Error,
    /// The request again, if not a byte of it was sent.
    pub(crate) unsent: Option<Box<Request<RequestBody>>>,
}

impl From<TrySendError<Request<RequestBody>>> for SendError {
    fn from(mut failed: TrySendError<Request<RequestBody>>) -> Self {
        let unsent = failed.take_message().map(Box::new);
        Self { error: failed.into_error(), unsent }
    }
}

/// HTTP/1.1 over a new stream.
pub(crate) async fn handshake(
    link: Link,
    max_header_bytes: usize,
) -> hyper::Result<(SendRequest<RequestBody>, UpstreamConnection)> {
    Builder::new()
        .max_buf_size(READ_BUFFER.max(max_header_bytes))
        .max_header_size(max_header_bytes)
        .handshake(TokioIo::new(link))
        .await
}

impl Upstream {
    pub(crate) async fn new(link: Link, max_header_bytes: usize) -> hyper::Result<Self> {
        let (sender, connection) = handshake(link, max_header_bytes).await?;
        Ok(Self { sender, connection: Some(connection) })
    }

    /// Lets the connection do what it can.
    fn drive(&mut self, cx: &mut Context<'_>) {
        let Some(connection) = &mut self.connection else { return };
        // An error reaches whoever waits for the answer or its body through these; there is nothing to do with it here.
        if Pin::new(connection).poll(cx).is_ready() {
            self.connection = None;
        }
    }

    /// Whether another request can be sent now. Notices that the application has closed the connection.
    pub(crate) async fn is_reusable(&mut self) -> bool {
        poll_fn(|cx| Poll::Ready(self.poll_reusable(cx))).await
    }

    fn poll_reusable(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        self.connection.is_some() && self.sender.is_ready()
    }

    /// Sends a request and waits for the head of the answer. Dropping the future gives the exchange up.
    pub(crate) async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| {
            if let Some(connection) = &mut self.connection
                && Pin::new(connection).poll(cx).is_ready()
            {
                self.connection = None;
            }
            answer.as_mut().poll(cx)
        })
        .await
        .map_err(SendError::from)
    }
}

/// A task that ends when its owner goes.
pub(crate) struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

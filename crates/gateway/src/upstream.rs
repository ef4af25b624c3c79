//! One HTTP/1.1 connection to an application, and the answer's body that is read from it.
//!
//! ```text
//!   pool ──take──► Upstream ──send──► head ──► UpstreamBody ──last byte──► pool
//! ```
//!
//! A connection has no task of its own: the task that waits for the answer or reads its body also drives the
//! connection. So a request stays in one task from the client's socket to the application's: there are no wake-ups
//! between tasks, the application is read only as fast as the client takes its answer, and dropping the answer drops
//! the connection. The exception is an answer that begins while the upload still goes on: then the two directions must
//! not wait for each other, and a task drives the connection.

mod body;

pub(crate) use body::UpstreamBody;

use crate::request_body::RequestBody;
use crate::revocable::RevocableStream;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use tokio::task::JoinHandle;

/// Bytes of an answer that are read at once, and so held per connection, at most.
const READ_BUFFER: usize = 256 * 1024;

pub(crate) type UpstreamConnection = Connection<TokioIo<RevocableStream>, RequestBody>;

/// A connection to an application, used by one request at a time.
pub(crate) struct Upstream {
    sender: SendRequest<RequestBody>,
    /// `None` once the connection has ended.
    connection: Option<UpstreamConnection>,
}

/// A request that got no answer.
pub(crate) struct SendError {
    pub(crate) error: hyper::Error,
    /// The request itself, if not a byte of it was sent.
    pub(crate) unsent: Option<Box<Request<RequestBody>>>,
}

impl From<TrySendError<Request<RequestBody>>> for SendError {
    fn from(mut failed: TrySendError<Request<RequestBody>>) -> Self {
        let unsent = failed.take_message().map(Box::new);
        Self { error: failed.into_error(), unsent }
    }
}

/// Begins HTTP/1.1 over a new stream. Nothing is sent yet.
pub(crate) async fn handshake(
    stream: RevocableStream,
    max_header_bytes: usize,
) -> hyper::Result<(SendRequest<RequestBody>, UpstreamConnection)> {
    Builder::new()
        // A head must fit into the buffer as a whole.
        .max_buf_size(READ_BUFFER.max(max_header_bytes))
        .max_header_size(max_header_bytes)
        .handshake(TokioIo::new(stream))
        .await
}

impl Upstream {
    pub(crate) async fn new(stream: RevocableStream, max_header_bytes: usize) -> hyper::Result<Self> {
        let (sender, connection) = handshake(stream, max_header_bytes).await?;
        Ok(Self { sender, connection: Some(connection) })
    }

    /// Reads and writes as far as the socket is ready.
    fn drive(&mut self, cx: &mut Context<'_>) {
        let Some(connection) = &mut self.connection else { return };
        // hyper also gives an error to the answer or its body, and that is where it is dealt with.
        if Pin::new(connection).poll(cx).is_ready() {
            self.connection = None;
        }
    }

    /// Whether another request can be sent. Looks at the socket, and so notices that the application has closed it.
    pub(crate) async fn is_reusable(&mut self) -> bool {
        poll_fn(|cx| Poll::Ready(self.poll_reusable(cx))).await
    }

    fn poll_reusable(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        self.connection.is_some() && self.sender.is_ready()
    }

    /// Sends a request and waits for the head of the answer. Dropping the future ends the exchange.
    pub(crate) async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| {
            // The connection first: what it reads in this poll is then answered in this poll.
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

/// A task that is aborted when this is dropped.
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

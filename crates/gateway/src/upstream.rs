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

use crate::connection::Client;
use crate::link::Link;
use crate::pool::Slot;
use crate::request_body::RequestBody;
use crate::stats::add;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use leapbox_errors::chain;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
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

/// Who drives the connection an answer's body comes over.
enum Driver {
    /// The body's reader. Boxed, because it moves to the pool and back.
    Reader(Box<Upstream>),
    /// A task, ended with the body.
    Task { _ends_with_this: AbortOnDrop },
    /// Nobody: the answer is complete.
    Nobody,
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

/// The body of an application's answer.
pub(crate) struct UpstreamBody {
    incoming: Incoming,
    driver: Driver,
    slot: Slot,
    client: Arc<Client>,
    /// How the answer broke off, until the client has had what came before.
    broken: Option<hyper::Error>,
}

impl UpstreamBody {
    /// A body whose reader drives the connection, or a task where the upload still goes on.
    pub(crate) fn new(
        incoming: Incoming,
        upstream: Box<Upstream>,
        upload_goes_on: bool,
        slot: Slot,
        client: Arc<Client>,
    ) -> Self {
        let driver = match *upstream {
            Upstream { sender, connection: Some(connection) } if upload_goes_on => {
                let task = AbortOnDrop::spawn(async move {
                    // The sender must outlive the exchange: without one, hyper ends the connection when it next can.
                    let _sender = sender;
                    if let Err(error) = connection.await {
                        tracing::debug!(error = %chain(&error), "a connection to an application ended badly");
                    }
                });
                Driver::Task { _ends_with_this: task }
            }
            upstream => Driver::Reader(Box::new(upstream)),
        };
        Self { incoming, driver, slot, client, broken: None }
    }

    /// A body over a connection some task drives already.
    pub(crate) fn driven(incoming: Incoming, driver: AbortOnDrop, slot: Slot, client: Arc<Client>) -> Self {
        Self { incoming, driver: Driver::Task { _ends_with_this: driver }, slot, client, broken: None }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            return self.passed(frame, cx);
        }
        let Driver::Reader(upstream) = &mut self.driver else { return Poll::Pending };
        upstream.drive(cx);
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => self.passed(frame, cx),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Notes what a frame means for the connection it came over.
    fn passed(
        &mut self,
        frame: Option<hyper::Result<Frame<Bytes>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match &frame {
            Some(Ok(frame)) => {
                self.client.moved();
                if let Some(data) = frame.data_ref() {
                    add(&self.client.counters().bytes_from_sandboxes, data.len());
                }
                if self.incoming.is_end_stream() {
                    self.complete(cx);
                }
            }
            Some(Err(_)) => {
                self.driver = Driver::Nobody;
                // An error makes hyper drop what it has not written yet. With a pause it writes that first.
                self.broken = frame.and_then(Result::err);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            None => self.complete(cx),
        }
        Poll::Ready(frame)
    }

    /// The last byte is here: the connection is free for the next request.
    fn complete(&mut self, cx: &mut Context<'_>) {
        if let Driver::Reader(mut upstream) = std::mem::replace(&mut self.driver, Driver::Nobody)
            && upstream.poll_reusable(cx)
        {
            self.slot.give_back(upstream);
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.incoming.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

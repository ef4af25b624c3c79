//! A client's request body on its way to the application: streamed, counted, and held to its limit.
//!
//! `exchange.rs` sends it, and watches its [`Upload`] while it waits for the answer.

use crate::body_error::BodyError;
use crate::client::Client;
use crate::stats::add;
use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

/// The state of an upload, shared with the task that waits for the answer to it.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    /// Nothing more will be sent: the body is complete, has failed, or was dropped.
    ended: AtomicBool,
    /// The body was longer than allowed, and was cut off.
    too_long: AtomicBool,
    /// Wakes the task that waits for the end.
    waker: AtomicWaker,
}

impl Upload {
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether the upload has ended. If not, the task is woken when it does.
    pub(crate) fn poll_ended(&self, cx: &mut Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.has_ended()
    }

    pub(crate) fn is_too_long(&self) -> bool {
        self.too_long.load(Ordering::Acquire)
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// The body of a request; `None` for a request without one.
pub(crate) struct RequestBody(Option<Streaming>);

struct Streaming {
    incoming: Incoming,
    /// Bytes that may still be sent.
    allowance: u64,
    upload: Arc<Upload>,
    client: Arc<Client>,
}

impl RequestBody {
    pub(crate) fn empty() -> Self {
        Self(None)
    }

    /// The body, and its upload's state if it has any bytes. `allowance` is its longest length in bytes.
    pub(crate) fn new(incoming: Incoming, allowance: u64, client: &Arc<Client>) -> (Self, Option<Arc<Upload>>) {
        if incoming.is_end_stream() {
            return (Self(None), None);
        }
        let upload = Arc::new(Upload::default());
        let streaming = Streaming { incoming, allowance, upload: Arc::clone(&upload), client: Arc::clone(client) };
        (Self(Some(streaming)), Some(upload))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Streaming {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Client(error)))),
            None => {
                self.upload.end();
                return Poll::Ready(None);
            }
        };
        self.client.note_activity();
        if let Some(data) = frame.data_ref() {
            // Counted here too, because a chunked body or one over HTTP/2 need not announce its length.
            match self.allowance.checked_sub(data.len() as u64) {
                Some(rest) => self.allowance = rest,
                None => {
                    self.upload.too_long.store(true, Ordering::Release);
                    return Poll::Ready(Some(Err(BodyError::TooLong)));
                }
            }
            add(&self.client.counters().bytes_to_sandboxes, data.len());
        }
        // Not only at the next poll: hyper does not poll a body again that says that it has ended.
        if self.incoming.is_end_stream() {
            self.upload.end();
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // hyper drops a body that has failed or is not wanted: from then on the answer's deadline runs.
        self.upload.end();
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().0 {
            Some(streaming) => streaming.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|streaming| streaming.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |streaming| streaming.incoming.size_hint())
    }
}

//! The bodies of requests and answers, streamed frame by frame.

use super::rules::Rules;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::OwnedSemaphorePermit;

/// The body of an answer to the guest: the upstream's, as it comes, or the proxy's own sentence.
pub(crate) struct Answer {
    body: Either<Incoming, Full<Bytes>>,
    /// The HTTP/2 request's permit of the sandbox, held until the last byte.
    permit: Option<OwnedSemaphorePermit>,
}

impl Answer {
    pub(crate) fn from_upstream(body: Incoming, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { body: Either::Left(body), permit }
    }

    pub(crate) fn from_text(text: String) -> Self {
        Self { body: Either::Right(Full::new(Bytes::from(text))), permit: None }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            self.permit = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a request to the upstream: the guest's as it comes, except for trailers that may not be sent.
pub(crate) struct Upload {
    /// `None` for an empty body.
    body: Option<Incoming>,
    rules: Arc<Rules>,
}

impl Upload {
    pub(crate) fn new(body: Incoming, rules: Arc<Rules>) -> Self {
        Self { body: (!body.is_end_stream()).then_some(body), rules }
    }

    /// An empty body, for sending a request without a body a second time.
    pub(crate) fn empty(&self) -> Self {
        Self { body: None, rules: Arc::clone(&self.rules) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.body.is_none()
    }

    /// Whether the body's length is not known beforehand.
    pub(crate) fn is_endless(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.size_hint().exact().is_none())
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let mut frame = ready!(Pin::new(body).poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            self.rules.trailers(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

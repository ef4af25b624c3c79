//! Bodies, streamed frame by frame both ways.

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

/// What the guest gets: the upstream's answer as it comes, or a sentence of ours.
pub(crate) struct Answer {
    body: Either<Incoming, Full<Bytes>>,
    /// The request's place among the sandbox's, until the last byte.
    place: Option<OwnedSemaphorePermit>,
}

impl Answer {
    pub(crate) fn upstreams(body: Incoming, place: Option<OwnedSemaphorePermit>) -> Self {
        Self { body: Either::Left(body), place }
    }

    pub(crate) fn ours(text: String) -> Self {
        Self { body: Either::Right(Full::new(Bytes::from(text))), place: None }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            self.place = None;
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

/// What the upstream gets: the guest's body as it comes; trailers without what headers may not have either.
pub(crate) struct Upload {
    /// `None`: empty.
    body: Option<Incoming>,
    rules: Arc<Rules>,
}

impl Upload {
    pub(crate) fn new(body: Incoming, rules: Arc<Rules>) -> Self {
        Self { body: (!body.is_end_stream()).then_some(body), rules }
    }

    /// A second empty body.
    pub(crate) fn empty(&self) -> Self {
        Self { body: None, rules: Arc::clone(&self.rules) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.body.is_none()
    }

    /// Whether the length is not known beforehand.
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

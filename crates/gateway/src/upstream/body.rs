//! The body of an application's answer, and what becomes of the connection it came over.

use super::{AbortOnDrop, Upstream};
use crate::client::Client;
use crate::pool::Slot;
use crate::stats::add;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use leapbox_errors::chain;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Who drives the connection an answer's body comes over.
enum Driver {
    /// The body's reader. Boxed, because it moves to the pool and back.
    Reader(Box<Upstream>),
    /// A task, ended with the body.
    Task { _ends_with_this: AbortOnDrop },
    /// Nobody: the answer is complete.
    Nobody,
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

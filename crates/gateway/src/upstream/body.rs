//! The body of an application's answer. With its last byte the connection is returned to the pool.

use super::{AbortOnDrop, Upstream};
use crate::client::Client;
use crate::pool::RequestPermit;
use crate::stats::add;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use leapbox_errors::chain;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Drives the connection over which an answer's body comes.
enum ConnectionDriver {
    /// The body's reader drives it. Boxed, because it moves to the pool and back.
    Reader(Box<Upstream>),
    /// A task drives it, until the body is dropped.
    Task { _ends_with_this: AbortOnDrop },
    /// The answer is complete or has broken off, and nothing is left to drive.
    Nobody,
}

/// The body of an application's answer.
pub(crate) struct UpstreamBody {
    incoming: Incoming,
    driver: ConnectionDriver,
    permit: RequestPermit,
    client: Arc<Client>,
    /// The error with which the answer broke off, held back until the client has got what came before.
    broken: Option<hyper::Error>,
}

impl UpstreamBody {
    /// A body whose reader drives the connection, or a task if the upload still goes on.
    pub(crate) fn new(
        incoming: Incoming,
        upstream: Box<Upstream>,
        upload_goes_on: bool,
        permit: RequestPermit,
        client: Arc<Client>,
    ) -> Self {
        let driver = match *upstream {
            Upstream { sender, connection: Some(connection) } if upload_goes_on => {
                let task = AbortOnDrop::spawn(async move {
                    // Without a sender hyper ends the connection as soon as it can, also in the middle of the upload.
                    let _sender = sender;
                    if let Err(error) = connection.await {
                        tracing::debug!(error = %chain(&error), "a connection to an application ended with an error");
                    }
                });
                ConnectionDriver::Task { _ends_with_this: task }
            }
            upstream => ConnectionDriver::Reader(Box::new(upstream)),
        };
        Self { incoming, driver, permit, client, broken: None }
    }

    /// A body over a connection that `driver` drives already: the answer to a handshake that was declined.
    pub(crate) fn driven(incoming: Incoming, driver: AbortOnDrop, permit: RequestPermit, client: Arc<Client>) -> Self {
        Self { incoming, driver: ConnectionDriver::Task { _ends_with_this: driver }, permit, client, broken: None }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            return self.passed(frame, cx);
        }
        // Only when nothing is left of the last read: the application is read no faster than the client takes its
        // answer.
        let ConnectionDriver::Reader(upstream) = &mut self.driver else { return Poll::Pending };
        upstream.drive(cx);
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => self.passed(frame, cx),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Passes a frame on, and does what it means for the connection: the last one frees it, an error ends it.
    fn passed(
        &mut self,
        frame: Option<hyper::Result<Frame<Bytes>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match &frame {
            Some(Ok(frame)) => {
                self.client.note_activity();
                if let Some(data) = frame.data_ref() {
                    add(&self.client.counters().bytes_from_sandboxes, data.len());
                }
                if self.incoming.is_end_stream() {
                    self.complete(cx);
                }
            }
            Some(Err(_)) => {
                self.driver = ConnectionDriver::Nobody;
                // On an error hyper drops what it has not written to the client yet. Pending once lets it write that
                // first.
                self.broken = frame.and_then(Result::err);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            None => self.complete(cx),
        }
        Poll::Ready(frame)
    }

    /// Returns the connection to the pool once the answer's last byte was read. One that a task drives is closed.
    fn complete(&mut self, cx: &mut Context<'_>) {
        if let ConnectionDriver::Reader(mut upstream) = std::mem::replace(&mut self.driver, ConnectionDriver::Nobody)
            && upstream.poll_reusable(cx)
        {
            self.permit.return_idle(upstream);
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.incoming.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

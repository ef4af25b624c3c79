//! One client connection, as its requests and tunnels see it, and the commands it gets from outside its own task.

use crate::stats::{Counters, count};
use crate::worker::Worker;
use futures::task::AtomicWaker;
use http::header::HeaderValue;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use tokio::sync::OwnedSemaphorePermit;

/// A command to a connection's task, given by the watchdog, the shutdown or a request that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum ConnCommand {
    Serve,
    /// Ends the connection once its open requests are answered (`Connection: close`, or GOAWAY).
    Finish,
    /// Closes the connection at once.
    Stop,
}

/// One client connection. Its task and its tunnels share it, and its drop frees the connection's permit.
pub(crate) struct Client {
    peer: SocketAddr,
    /// The client's address as the value of `X-Forwarded-For`, made once for all requests of the connection.
    forwarded_for: HeaderValue,
    /// The gateway is at its limit of connections: the only answer here is 503.
    refused: bool,
    worker: Arc<Worker>,
    /// Changes whenever a body byte, an answer's head or a request's beginning or end passes; the watchdog compares it.
    activity: AtomicU64,
    /// The number of open requests and tunnels.
    open: AtomicUsize,
    /// The highest [`ConnCommand`] given so far.
    command: AtomicU8,
    /// Wakes the connection's task to read `command`.
    pub(crate) waker: AtomicWaker,
    _permit: OwnedSemaphorePermit,
}

/// Counts one request or tunnel as open until it is dropped.
pub(crate) struct OpenRequest<'a>(&'a Client);

impl Client {
    pub(crate) fn new(peer: SocketAddr, refused: bool, worker: &Arc<Worker>, permit: OwnedSemaphorePermit) -> Self {
        worker.load.fetch_add(1, Ordering::Relaxed);
        count(&worker.counters.connections_open);
        // A listener on `::` sees IPv4 clients as `::ffff:a.b.c.d`; an application expects the plain IPv4 form.
        let address = peer.ip().to_canonical().to_string();
        Self {
            peer,
            forwarded_for: HeaderValue::try_from(address).unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            refused,
            worker: Arc::clone(worker),
            // Not 0, which is what the watchdog begins with.
            activity: AtomicU64::new(1),
            open: AtomicUsize::new(0),
            command: AtomicU8::new(ConnCommand::Serve as u8),
            waker: AtomicWaker::new(),
            _permit: permit,
        }
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn forwarded_for(&self) -> &HeaderValue {
        &self.forwarded_for
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.refused
    }

    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.worker.counters
    }

    /// Notes for the watchdog that a byte, a head or a request's end has passed.
    pub(crate) fn note_activity(&self) {
        self.activity.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn activity(&self) -> u64 {
        self.activity.load(Ordering::Relaxed)
    }

    /// The number of open requests and tunnels.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn open_request(&self) -> OpenRequest<'_> {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.note_activity();
        OpenRequest(self)
    }

    /// Gives the connection's task a command.
    pub(crate) fn command(&self, command: ConnCommand) {
        // The maximum, because watchdog, shutdown and requests race: a `Finish` must not undo a `Stop` given before it.
        self.command.fetch_max(command as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    /// Whether `command` or a stronger one was given.
    pub(crate) fn has(&self, command: ConnCommand) -> bool {
        self.command.load(Ordering::Acquire) >= command as u8
    }
}

impl Drop for OpenRequest<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.note_activity();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.worker.load.fetch_sub(1, Ordering::Relaxed);
        self.worker.counters.connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}

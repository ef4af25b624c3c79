//! One client connection, as its requests and tunnels see it, and what it is told from outside.

use crate::stats::{Counters, count};
use crate::worker::Worker;
use futures::task::AtomicWaker;
use http::header::HeaderValue;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use tokio::sync::OwnedSemaphorePermit;

/// What a connection is told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Order {
    Serve,
    /// End after what is open.
    Finish,
    /// End now.
    Stop,
}

/// One client connection, as its requests and tunnels see it.
pub(crate) struct Client {
    peer: SocketAddr,
    /// Its address, for `X-Forwarded-For`.
    forwarded_for: HeaderValue,
    /// Taken only to be told that there is no room.
    refused: bool,
    /// The thread it lives in.
    worker: Arc<Worker>,
    /// Counts movements.
    moved: AtomicU64,
    /// Requests and tunnels open.
    open: AtomicUsize,
    order: AtomicU8,
    /// The connection's task.
    pub(crate) waker: AtomicWaker,
    _permit: OwnedSemaphorePermit,
}

/// An open request or tunnel; ends with the drop.
pub(crate) struct OpenRequest<'a>(&'a Client);

impl Client {
    pub(crate) fn new(peer: SocketAddr, refused: bool, worker: &Arc<Worker>, permit: OwnedSemaphorePermit) -> Self {
        worker.load.fetch_add(1, Ordering::Relaxed);
        count(&worker.counters.connections_open);
        let address = peer.ip().to_canonical().to_string();
        Self {
            peer,
            forwarded_for: HeaderValue::try_from(address).unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            refused,
            worker: Arc::clone(worker),
            moved: AtomicU64::new(1),
            open: AtomicUsize::new(0),
            order: AtomicU8::new(Order::Serve as u8),
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

    /// Something moved on one of its requests.
    pub(crate) fn moved(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn movements(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Requests and tunnels open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn open_request(&self) -> OpenRequest<'_> {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.moved();
        OpenRequest(self)
    }

    /// Tells the connection; an order is never taken back.
    pub(crate) fn order(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    pub(crate) fn has(&self, order: Order) -> bool {
        self.order.load(Ordering::Acquire) >= order as u8
    }
}

impl Drop for OpenRequest<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.moved();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.worker.load.fetch_sub(1, Ordering::Relaxed);
        self.worker.counters.connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}

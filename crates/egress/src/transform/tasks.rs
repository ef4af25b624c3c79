//! Runs everything that one guest connection needs within the one task that serves it.
//!
//! hyper gives its helpers (a connection's driver, an HTTP/2 stream's answer) to an executor. Spawned into the runtime,
//! they would outlive the connection, whose task ends when the sandbox does. Here that task polls them and they end
//! with it, and nothing changes threads on the way from the guest to the upstream.

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Adds futures to a connection's [`Tasks`]; hyper's executor.
#[derive(Clone)]
pub(crate) struct Spawner(mpsc::UnboundedSender<BoxFuture<'static, ()>>);

/// The futures that run beside a guest connection.
pub(crate) struct Tasks {
    new: mpsc::UnboundedReceiver<BoxFuture<'static, ()>>,
    running: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, task: F) {
        // Fails only when the connection has ended, and the future would have nothing left to do.
        let _ = self.0.send(Box::pin(task));
    }
}

impl Tasks {
    pub(crate) fn new() -> (Spawner, Self) {
        // Unbounded, but bounded by what is spawned: one future for each of at most MAX_STREAMS streams, and a few
        // drivers.
        let (spawner, new) = mpsc::unbounded_channel();
        (Spawner(spawner), Self { new, running: FuturesUnordered::new() })
    }

    /// Runs `work` to its end and polls the other futures meanwhile.
    pub(crate) async fn run<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|cx| {
            self.poll(cx);
            work.as_mut().poll(cx)
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        loop {
            while let Poll::Ready(Some(task)) = self.new.poll_recv(cx) {
                self.running.push(task);
            }
            match self.running.poll_next_unpin(cx) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
    }
}

//! Everything that one guest connection has running, in the one task that serves it.
//!
//! hyper hands its helpers (a connection's driver, an HTTP/2 stream's answer) to an executor. Spawned into the runtime
//! they would outlive the connection, whose task the server ends when the sandbox goes. Here they are polled by that
//! task and end with it, and nothing is handed between threads on the way from the guest to the upstream.

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Adds tasks; hyper's executor.
#[derive(Clone)]
pub(crate) struct Spawner(mpsc::UnboundedSender<BoxFuture<'static, ()>>);

pub(crate) struct Tasks {
    new: mpsc::UnboundedReceiver<BoxFuture<'static, ()>>,
    running: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, task: F) {
        // Fails only when the connection is over, and with it what the task was for.
        let _ = self.0.send(Box::pin(task));
    }
}

impl Tasks {
    pub(crate) fn new() -> (Spawner, Self) {
        // Unbounded, but what is spawned is bounded: a connection's streams and a few drivers.
        let (spawner, new) = mpsc::unbounded_channel();
        (Spawner(spawner), Self { new, running: FuturesUnordered::new() })
    }

    /// Polls the tasks for as long as the future takes.
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

//! The agent's worker threads.
//!
//! Every worker waits in `accept` on the same socket and serves what it gets to the end, so that no connection is handed
//! from one thread to another. When the last idle worker gets one, it starts another; when there are more idle workers
//! than needed, one ends. At [`MAX_WORKERS`] busy ones, the next connection is told so at once; at most [`MAX_LONG`] of
//! them are commands and relays, which last.

use crate::guest::Guest;
use crate::long::LongSlots;
use crate::{call, connection, log};
use leapbox_errors::chain;
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// Connections that are served at a time; one more is told that there are too many.
pub const MAX_WORKERS: usize = 256;
pub use crate::long::MAX_LONG;
/// Workers that wait for connections when there are none.
const IDLE_WORKERS: usize = 3;
/// A worker's stack.
const STACK_BYTES: usize = 256 << 10;

struct Server {
    guest: Arc<Guest>,
    listener: TcpListener,
    long: LongSlots,
    /// Workers in `accept`.
    idle: AtomicUsize,
    /// All workers.
    workers: AtomicUsize,
}

/// Starts serving; returns at once. Workers live as long as the process.
pub fn serve(guest: Arc<Guest>, listener: TcpListener) -> io::Result<()> {
    notice_dead_peers(&listener)?;
    let server =
        Server { guest, listener, long: LongSlots::default(), idle: AtomicUsize::new(0), workers: AtomicUsize::new(0) };
    let server = Arc::new(server);
    for _ in 0..IDLE_WORKERS {
        server.start_worker()?;
    }
    Ok(())
}

/// The host's end of a connection may be gone without a word: keep-alive finds out. Accepted sockets inherit it.
fn notice_dead_peers(listener: &TcpListener) -> io::Result<()> {
    setsockopt(listener, sockopt::KeepAlive, &true)?;
    setsockopt(listener, sockopt::TcpKeepIdle, &30)?;
    setsockopt(listener, sockopt::TcpKeepInterval, &10)?;
    setsockopt(listener, sockopt::TcpKeepCount, &3)?;
    Ok(())
}

impl Server {
    fn start_worker(self: &Arc<Self>) -> io::Result<()> {
        self.workers.fetch_add(1, SeqCst);
        self.idle.fetch_add(1, SeqCst);
        let server = Arc::clone(self);
        let started =
            thread::Builder::new().name("worker".to_owned()).stack_size(STACK_BYTES).spawn(move || server.work());
        if started.is_err() {
            self.idle.fetch_sub(1, SeqCst);
            self.workers.fetch_sub(1, SeqCst);
        }
        started.map(drop)
    }

    fn work(self: &Arc<Self>) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    let was_last = self.idle.fetch_sub(1, SeqCst) == 1;
                    self.serve(stream, was_last);
                    if self.idle.fetch_add(1, SeqCst) >= IDLE_WORKERS {
                        self.idle.fetch_sub(1, SeqCst);
                        self.workers.fetch_sub(1, SeqCst);
                        return;
                    }
                }
                Err(error) => {
                    // Descriptors or memory are short for a moment.
                    log::line(format_args!("accept: {}", chain(&error)));
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn serve(self: &Arc<Self>, stream: TcpStream, was_last: bool) {
        if was_last && self.workers.load(SeqCst) > MAX_WORKERS {
            let _ = call::refuse(stream);
            return;
        }
        if was_last && let Err(error) = self.start_worker() {
            // This connection is served all the same; the next waits for it.
            log::line(format_args!("cannot start a worker: {}", chain(&error)));
        }
        let served = catch_unwind(AssertUnwindSafe(|| {
            // What went wrong with a connection is for its caller to see.
            let _ = connection::serve(&self.guest, &self.long, stream);
        }));
        if served.is_err() {
            log::line(format_args!("a connection panicked"));
        }
    }
}

//! The worker threads that serve a guest with disks. Started by `diskless`.
//!
//! Every worker waits in `accept` on the same socket and serves its connection to the end, so that no connection is
//! passed from one thread to another. When the last idle worker gets one, it starts another worker; when more are idle
//! than needed, one ends. With [`MAX_WORKERS`] busy, the next connection is answered `Busy`. At most [`MAX_LONG`] of
//! them are commands and relays, which last; see `long_lived`.

use crate::guest::Guest;
use crate::long_lived::LongLivedPermits;
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

/// Connections served at a time; one more is answered `Busy`. It bounds the memory and the tasks of PID 1, which boot
/// reserves.
pub const MAX_WORKERS: usize = 256;
pub use crate::long_lived::MAX_LONG;
// A base is taken with these threads in it, so that a clone serves its first calls without starting any.
const IDLE_WORKERS: usize = 3;
// Serving a call needs little stack. 256 of Rust's default 2 MiB would be as much address space as a small guest has
// memory.
const STACK_BYTES: usize = 256 << 10;

struct Server {
    guest: Arc<Guest>,
    listener: TcpListener,
    long_lived: LongLivedPermits,
    /// Workers that wait in `accept`.
    idle: AtomicUsize,
    /// All workers, idle or busy.
    workers: AtomicUsize,
}

/// Starts the first workers and returns. Some worker is alive until the process ends.
pub fn serve(guest: Arc<Guest>, listener: TcpListener) -> io::Result<()> {
    notice_dead_peers(&listener)?;
    let server = Server {
        guest,
        listener,
        long_lived: LongLivedPermits::default(),
        idle: AtomicUsize::new(0),
        workers: AtomicUsize::new(0),
    };
    let server = Arc::new(server);
    for _ in 0..IDLE_WORKERS {
        server.start_worker()?;
    }
    Ok(())
}

/// Turns on TCP keep-alive; accepted sockets inherit it from the listener.
fn notice_dead_peers(listener: &TcpListener) -> io::Result<()> {
    // A host that crashed, or a connection that a base snapshot or a checkpoint carried into another machine, sends no
    // FIN. With these numbers it is found out after a minute of silence: 30 s, and three probes 10 s apart.
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
                    // Descriptors or memory are short; both come back when connections end. Without the pause this loop
                    // would take a whole CPU until then.
                    log::line(format_args!("cannot accept a connection: {}", chain(&error)));
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
            // This connection is served all the same; the next one waits in the backlog until a worker is idle.
            log::line(format_args!("cannot start another worker thread: {}", chain(&error)));
        }
        // A panic must end one connection only. If it ended the thread, the counts of workers would be wrong for ever.
        let served = catch_unwind(AssertUnwindSafe(|| {
            // An error of the connection itself is seen by its caller, and says nothing about the guest.
            let _ = connection::serve(&self.guest, &self.long_lived, stream);
        }));
        if served.is_err() {
            log::line(format_args!("a panic ended a connection; this is a bug of the agent"));
        }
    }
}

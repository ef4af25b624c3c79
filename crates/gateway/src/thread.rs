//! One gateway thread: its single-threaded runtime, the connections assigned to it, and the watchdog over them.
//!
//! ```text
//!   accept (server's runtime) ──assigned to the least loaded──► worker 0: connections, idle upstreams, counters
//!                                                               worker 1: …
//! ```
//! A connection stays in one thread, with every stream it opens into sandboxes, so that no request is handed between
//! threads and requests that became ready together are served together. Against a work-stealing runtime that is worth a
//! third of the throughput of small answers. Other crates are called in the server's runtime (see
//! [`crate::worker::Worker::on_server_runtime`]), so that nothing they start ends or stalls with the gateway.
//!
//! One watchdog finds everything that stands still: a silent upload, an answer that the client does not read, an
//! application that stops in the middle of its answer, an unused HTTP/2 connection. It compares counters of activity
//! and of open requests at each tick, and so needs no timer per connection or request.

use crate::backends::Backends;
use crate::client::{Client, ConnCommand};
use crate::config::Limits;
use crate::connection;
use crate::shared::Shared;
use crate::stats::count;
use leapbox_errors::chain;
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;

/// The gateway's shutdown, as its threads follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Open requests and tunnels may end; every connection is asked to end after them.
    Draining,
    /// The drain time is over: the thread returns, and what is left is closed with its runtime.
    Ended,
}

/// An accepted connection on its way to the thread it was assigned to.
pub(crate) struct Accepted {
    pub(crate) socket: std::net::TcpStream,
    pub(crate) client: Arc<Client>,
}

/// Serves assigned connections until [`Phase::Ended`]. The connections that are left then are dropped with the runtime.
pub(crate) async fn run<B: Backends>(
    shared: Arc<Shared<B>>,
    tls: TlsAcceptor,
    mut assigned: mpsc::UnboundedReceiver<Accepted>,
    mut phases: watch::Receiver<Phase>,
) {
    let limits = &shared.config.limits;
    let mut watched: Vec<WatchedConnection> = Vec::new();
    let mut is_draining = false;
    // A standstill is noticed at most a quarter of its limit late.
    let mut tick = interval(limits.keep_alive_idle.min(limits.stream_idle) / 4);
    // A thread that was held up checks once and not once for every tick it missed.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(accepted) = assigned.recv() => {
                // Accepted just before the listeners were closed: it ends like the others, once nothing of it is open.
                if is_draining {
                    accepted.client.command(ConnCommand::Finish);
                }
                watched.extend(start_connection(&shared, &tls, accepted));
            }
            _ = tick.tick() => watched.retain_mut(|connection| connection.check(limits)),
            changed = phases.changed() => {
                // A dropped sender means that `serve` was given up: nobody waits for the drain any more.
                match changed.map_or(Phase::Ended, |()| *phases.borrow_and_update()) {
                    Phase::Open => {}
                    Phase::Draining => {
                        is_draining = true;
                        watched.iter().filter_map(|w| w.client.upgrade()).for_each(|c| c.command(ConnCommand::Finish));
                    }
                    Phase::Ended => return,
                }
            }
        }
    }
}

fn start_connection<B: Backends>(
    shared: &Arc<Shared<B>>,
    tls: &TlsAcceptor,
    accepted: Accepted,
) -> Option<WatchedConnection> {
    let Accepted { socket, client } = accepted;
    let socket = match TcpStream::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(error = %chain(&error), "could not pass a connection to its gateway thread; it is closed");
            return None;
        }
    };
    // The counter of a new client is not 0, so that the first check takes the time for `since`.
    let watched = WatchedConnection { client: Arc::downgrade(&client), seen: 0, since: Instant::now() };
    tokio::spawn(connection::serve(Arc::clone(shared), client, socket, tls.clone()));
    Some(watched)
}

/// The watchdog's view of one connection.
struct WatchedConnection {
    /// Weak, because a client's drop is what ends its connection's permit.
    client: Weak<Client>,
    /// The client's activity counter at the last check.
    seen: u64,
    /// The time at which the counter was first found at `seen`.
    since: Instant,
}

impl WatchedConnection {
    /// Asks a connection that stands still to end, or stops it. Returns whether it still exists.
    fn check(&mut self, limits: &Limits) -> bool {
        let Some(client) = self.client.upgrade() else { return false };
        let (activity, open) = (client.activity(), client.open());
        if activity != self.seen {
            (self.seen, self.since) = (activity, Instant::now());
            return true;
        }
        let standstill = self.since.elapsed();
        // Without an open request it was asked to end after `keep_alive_idle`, and may still be sending the client the
        // rest of an answer. One that has not ended by the later limit belongs to a client that does not read.
        let limit = if open > 0 { limits.stream_idle } else { limits.stream_idle + 2 * limits.keep_alive_idle };
        if standstill >= limit {
            count(&client.counters().connections_stalled);
            tracing::debug!(peer = %client.peer(), open, "closed a connection on which nothing moved");
            client.command(ConnCommand::Stop);
        } else if open == 0 && standstill >= limits.keep_alive_idle {
            client.command(ConnCommand::Finish);
        }
        true
    }
}

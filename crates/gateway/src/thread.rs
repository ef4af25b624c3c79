//! One thread of the gateway: a runtime of its own, the connections it was dealt, and a watchdog over them.
//!
//! ```text
//!   accept (caller's runtime) ──dealt to the worker with the fewest──► worker 0: connections, kept upstreams, counters
//!                                                                     worker 1: …
//! ```
//! A connection lives and dies in one thread, with every stream it needs into sandboxes: no request is ever handed
//! between threads, and what became ready together is served together. That is worth a third of the throughput of small
//! answers against a work-stealing runtime. The rest of the house is called in the caller's runtime (see
//! [`crate::worker::Worker::at_home`]), so that nothing it starts there ends or stalls with the gateway.
//!
//! The watchdog is the one clock for everything that can stand still: a silent upload, an answer the client does not
//! read, an application that says nothing more, an HTTP/2 connection kept open for nothing. It looks at what moved and
//! at how many requests are open, and needs no timer per connection or request.

use crate::backends::Backends;
use crate::client::{Client, Order};
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

/// How far shutdown has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Serving.
    Open,
    /// Finishing what is open.
    Draining,
    /// Ending everything.
    Ended,
}

/// A client's connection on its way to a worker.
pub(crate) struct Accepted {
    pub(crate) socket: std::net::TcpStream,
    pub(crate) client: Arc<Client>,
}

/// Takes connections until told to end; dropping what is left is up to the runtime.
pub(crate) async fn run<B: Backends>(
    shared: Arc<Shared<B>>,
    tls: TlsAcceptor,
    mut dealt: mpsc::UnboundedReceiver<Accepted>,
    mut phases: watch::Receiver<Phase>,
) {
    let limits = &shared.config.limits;
    let mut wards: Vec<Ward> = Vec::new();
    let mut is_draining = false;
    let mut tick = interval(limits.keep_alive_idle.min(limits.stream_idle) / 4);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(accepted) = dealt.recv() => {
                if is_draining {
                    accepted.client.order(Order::Finish);
                }
                wards.extend(take(&shared, &tls, accepted));
            }
            _ = tick.tick() => wards.retain_mut(|ward| ward.look(limits)),
            changed = phases.changed() => {
                // The sender's end means that nobody waits for this gateway any more.
                match changed.map_or(Phase::Ended, |()| *phases.borrow_and_update()) {
                    Phase::Open => {}
                    Phase::Draining => {
                        is_draining = true;
                        wards.iter().filter_map(|w| w.client.upgrade()).for_each(|c| c.order(Order::Finish));
                    }
                    Phase::Ended => return,
                }
            }
        }
    }
}

fn take<B: Backends>(shared: &Arc<Shared<B>>, tls: &TlsAcceptor, accepted: Accepted) -> Option<Ward> {
    let Accepted { socket, client } = accepted;
    let socket = match TcpStream::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(error = %chain(&error), "could not take a connection");
            return None;
        }
    };
    let ward = Ward { client: Arc::downgrade(&client), seen: 0, since: Instant::now() };
    tokio::spawn(connection::serve(Arc::clone(shared), client, socket, tls.clone()));
    Some(ward)
}

/// A connection under watch.
struct Ward {
    client: Weak<Client>,
    /// Its movements when last looked at.
    seen: u64,
    /// When they were first that many.
    since: Instant,
}

impl Ward {
    /// Looks after the connection. Whether it is still there.
    fn look(&mut self, limits: &Limits) -> bool {
        let Some(client) = self.client.upgrade() else { return false };
        let (moved, open) = (client.movements(), client.open());
        if moved != self.seen {
            (self.seen, self.since) = (moved, Instant::now());
            return true;
        }
        let standstill = self.since.elapsed();
        let patience = if open > 0 { limits.stream_idle } else { limits.stream_idle + 2 * limits.keep_alive_idle };
        if standstill >= patience {
            // With nothing open: asked in vain to end, because it does not take the rest of our bytes.
            count(&client.counters().connections_stalled);
            tracing::debug!(peer = %client.peer(), open, "cut a connection on which nothing moved");
            client.order(Order::Stop);
        } else if open == 0 && standstill >= limits.keep_alive_idle {
            client.order(Order::Finish);
        }
        true
    }
}

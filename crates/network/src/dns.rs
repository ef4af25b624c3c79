//! Names for sandboxes: UDP and TCP at the gateway address inside each slot, answered by this process.
//!
//! ```text
//!   guest ─ 10.254.254.1:53 ─┬─ udp  ─┐ rate and size of this slot            one resolver for all slots
//!                            └─ tcp  ─┴──── answer (policy) ───── upstream ── host's name servers (root namespace)
//!                                              └─ slot (memory) ──── the egress proxy
//! ```
//!
//! A query is answered only if the sandbox's policy allows its name, else refused here, without a packet to the outside;
//! and never with an address that no sandbox may reach.
//!
//! The listeners are our own and not hickory-server's, because those start a task for every datagram and accept any
//! number of connections: a guest could exhaust this process. Messages and forwarding are hickory's. Nothing is
//! cached for others: the upstream does, other sandboxes cannot be timed through it, and memory stays bounded.
//!
//! A server that is down answers nothing: sandboxes then have no names (fail closed).

mod addresses;
mod answer;
mod limits;
mod slot;
mod tcp;
mod udp;
mod upstream;

pub(crate) use slot::{Ruling, SlotNames};
pub(crate) use upstream::{Upstream, read_resolv_conf};

use crate::namespace::Worker;
use leapbox_guest_protocol::net::WORKLOAD_GATEWAY;
use limits::MAX_QUERIES;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The port of RFC 1035.
const PORT: u16 = 53;

/// What all slots' name servers share.
#[derive(Debug)]
pub(crate) struct Dns {
    upstream: Upstream,
    /// Queries under way, over all slots.
    queries: Semaphore,
    counters: Counters,
}

/// Counted since the start, over all slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DnsStats {
    /// Queries answered, with names or with an error.
    pub answered: u64,
    /// Queries of these that failed for want of an upstream's answer (SERVFAIL).
    pub failed: u64,
    /// Queries and connections dropped, because a slot asked for too much or for nonsense.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Counters {
    answered: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

impl Counters {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Dns {
    pub(crate) fn new(upstream: Upstream) -> Self {
        Self { upstream, queries: Semaphore::new(MAX_QUERIES), counters: Counters::default() }
    }

    pub(crate) fn stats(&self) -> DnsStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DnsStats {
            answered: get(&self.counters.answered),
            failed: get(&self.counters.failed),
            dropped: get(&self.counters.dropped),
        }
    }

    /// Opens a slot's name server, which refuses everything until there is a ruling. It ends, its sockets with it, when
    /// the returned set is dropped or shut down.
    pub(crate) async fn serve(
        self: &Arc<Self>,
        worker: &Worker,
        netns: Arc<OwnedFd>,
    ) -> io::Result<(JoinSet<()>, Arc<SlotNames>)> {
        let (udp, tcp) = worker.run(netns, bind).await?;
        let udp = tokio::net::UdpSocket::from_std(udp)?;
        let tcp = tokio::net::TcpListener::from_std(tcp)?;
        let names = Arc::new(SlotNames::new(self.clone()));
        let mut tasks = JoinSet::new();
        tasks.spawn(udp::serve(names.clone(), udp));
        tasks.spawn(tcp::serve(names.clone(), tcp));
        Ok((tasks, names))
    }
}

/// For the fuzzer: see `answer`.
pub(crate) fn fuzz(bytes: &[u8], evaluator: &leapbox_egress_policy::Evaluator) {
    answer::fuzz(bytes, evaluator);
}

fn bind() -> io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let address = SocketAddrV4::new(WORKLOAD_GATEWAY, PORT);
    let udp = std::net::UdpSocket::bind(address)?;
    let tcp = std::net::TcpListener::bind(address)?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok((udp, tcp))
}

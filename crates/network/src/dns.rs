//! Name servers for sandboxes. Each slot has one, at the slot's first address, over UDP and TCP; this process serves
//! all of them. In this crate, a *name server* is the one that a slot's guest asks, and the *forwarder* is hickory's
//! resolver, one for all slots, which asks the *upstream* name servers: configured ones, or the host's.
//!
//! ```text
//!   guest ─ 10.254.254.1:53 ─┬─ udp  ─┐ rate and size of this slot            one forwarder for all slots
//!                            └─ tcp  ─┴──── answer (policy) ───── upstream ── host's name servers (root namespace)
//!                                              └─ slot (cache of this slot's answers) ── the egress proxy
//! ```
//!
//! A query is answered only if the sandbox's policy allows its name; else it is refused here, without a packet to the
//! outside. No A record of an answer has a closed address, unless that is opened to the sandbox.
//!
//! The listeners are this crate's and not hickory-server's, which start a task for every datagram and accept any number
//! of connections: a guest could exhaust this process. Messages and forwarding are hickory's.
//!
//! Under `custom` a slot caches its own answers, for its egress proxy alone: the guest's queries are always forwarded.
//! No answer is cached for other slots: their sandboxes could find out by timing what this one has asked for, and
//! memory would not be bounded. The upstream name servers cache.
//!
//! While the server is down sandboxes have no name server, and resolve nothing (fail closed).

mod addresses;
mod answer;
mod limits;
mod slot;
mod tcp;
mod udp;
mod upstream;

pub(crate) use slot::{NamePolicy, SlotNameServer};
pub(crate) use upstream::{Upstream, read_resolv_conf};

use crate::namespace::NamespaceThread;
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

/// The state that the name servers of all slots share.
#[derive(Debug)]
pub(crate) struct Dns {
    upstream: Upstream,
    /// Permits for the upstream queries of all slots.
    queries: Semaphore,
    counters: Counters,
}

/// Counters of the name servers of all slots, since the server's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DnsStats {
    /// Queries that were answered, with records or with an error.
    pub answered: u64,
    /// Those of the answered queries that failed because no upstream name server has answered (SERVFAIL).
    pub failed: u64,
    /// Queries and connections that were dropped, because a slot is over its limits or has sent nonsense.
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

    /// Opens a slot's name server, which refuses everything until the slot has a policy. It ends, and its sockets with
    /// it, when the returned set is dropped or shut down.
    pub(crate) async fn serve(
        self: &Arc<Self>,
        netns_thread: &NamespaceThread,
        netns: Arc<OwnedFd>,
    ) -> io::Result<(JoinSet<()>, Arc<SlotNameServer>)> {
        let (udp, tcp) = netns_thread.run(netns, bind).await?;
        let udp = tokio::net::UdpSocket::from_std(udp)?;
        let tcp = tokio::net::TcpListener::from_std(tcp)?;
        let name_server = Arc::new(SlotNameServer::new(self.clone()));
        let mut tasks = JoinSet::new();
        tasks.spawn(udp::serve(name_server.clone(), udp));
        tasks.spawn(tcp::serve(name_server.clone(), tcp));
        Ok((tasks, name_server))
    }
}

/// Called by the fuzz target: see `answer`.
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

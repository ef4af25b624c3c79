//! One sandbox's network: a namespace held by descriptor, and the way into it.

use crate::error::NetworkError;
use crate::links;
use crate::namespace::Worker;
use crate::plan::SlotPlan;
use crate::policy::{Gatekeeper, SlotTasks};
use crate::shared::{Lease, Shared};
use leapbox_errors::chain;
use nix::sys::socket::sockopt::{TcpKeepCount, TcpKeepIdle, TcpKeepInterval, TcpUserTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::error::Elapsed;

/// When a connection to a guest that no longer acknowledges is given up, in milliseconds. A killed VMM sends no
/// reset, and a socket that lingered would keep its namespace, and with it the index, from being released.
const USER_TIMEOUT_MS: u32 = 60_000;
/// Keep-alive of an idle connection: first probe after so many seconds …
const KEEPALIVE_IDLE_S: u32 = 30;
/// … then one every so many seconds …
const KEEPALIVE_INTERVAL_S: u32 = 10;
/// … and so many unanswered ones end it.
const KEEPALIVE_PROBES: u32 = 3;

/// A prepared network for one sandbox, closed until it has a policy. Used once: when it is closed or dropped its namespace ends with the VMM in it,
/// and only then the index, which decides addresses and uid, can be used again.
#[derive(Debug)]
pub struct Slot {
    lease: Lease,
    plan: SlotPlan,
    netns: Arc<OwnedFd>,
    /// The slot's name server.
    dns: JoinSet<()>,
    gatekeeper: Gatekeeper,
    /// What its policy keeps running.
    tasks: Arc<SlotTasks>,
}

impl Slot {
    /// Which slot it is; kept in the database, so that a restarted server can adopt it.
    pub fn index(&self) -> u32 {
        self.plan.index
    }

    /// The uid its VMM runs under. It owns the taps, and no other living slot has it.
    pub fn uid(&self) -> u32 {
        self.plan.uid
    }

    /// The namespace the VMM is to run in. Keep it no longer than the sandbox lives.
    pub fn netns(&self) -> Arc<OwnedFd> {
        self.netns.clone()
    }

    /// Connects to an address inside the slot, usually [`net::CHANNEL_GUEST`](leapbox_guest_protocol::net::CHANNEL_GUEST).
    ///
    /// Errors: `TimedOut` after `timeout`, else what the connect returned.
    pub async fn connect(&self, address: SocketAddrV4, timeout: Duration) -> io::Result<TcpStream> {
        connect(self.netns.clone(), &self.lease.shared.worker, address, timeout).await
    }

    /// The way to give it a policy. Until it has one, nothing leaves it.
    pub fn gatekeeper(&self) -> Gatekeeper {
        self.gatekeeper.clone()
    }

    /// The way in alone, for those who connect on a sandbox's behalf. It does not keep the slot alive.
    pub fn connector(&self) -> SlotConnector {
        SlotConnector { netns: Arc::downgrade(&self.netns), worker: self.lease.shared.worker.clone() }
    }

    /// Cuts the slot off at once, DNS included. To be called when the VMM is dead or about to be: the index is free
    /// again when the namespace is gone, which this does not wait for.
    pub async fn close(mut self) {
        self.dns.shutdown().await;
        self.tasks.shutdown().await;
        let routing = &self.lease.shared.root.routing;
        if let Err(error) = links::cut(routing, &self.plan.veth).await {
            tracing::warn!(index = self.plan.index, error = %chain(&error), "a closed slot could not be cut off at once");
        }
    }

    pub(crate) fn veth(&self) -> &str {
        &self.plan.veth
    }
}

/// Connects into a slot as long as it lives. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SlotConnector {
    netns: Weak<OwnedFd>,
    worker: Worker,
}

impl SlotConnector {
    /// As [`Slot::connect`]; `NotConnected` once the slot is closed.
    pub async fn connect(&self, address: SocketAddrV4, timeout: Duration) -> io::Result<TcpStream> {
        let netns = self.netns.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        connect(netns, &self.worker, address, timeout).await
    }
}

async fn connect(
    netns: Arc<OwnedFd>,
    worker: &Worker,
    address: SocketAddrV4,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let connecting = async {
        let socket = worker.run(netns, tcp_socket).await?;
        socket.connect(address.into()).await
    };
    tokio::time::timeout(timeout, connecting).await.map_err(|_: Elapsed| io::ErrorKind::TimedOut)?
}

/// Runs on the worker, inside the slot: a socket belongs to the namespace it was made in.
fn tcp_socket() -> io::Result<TcpSocket> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    setsockopt(&fd, sockopt::KeepAlive, &true)?;
    setsockopt(&fd, TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
    setsockopt(&fd, TcpKeepInterval, &KEEPALIVE_INTERVAL_S)?;
    setsockopt(&fd, TcpKeepCount, &KEEPALIVE_PROBES)?;
    setsockopt(&fd, TcpUserTimeout, &USER_TIMEOUT_MS)?;
    Ok(TcpSocket::from_std_stream(std::net::TcpStream::from(fd)))
}

impl Shared {
    /// Prepares the slot of a leased index, name server included.
    pub(crate) async fn make(self: Arc<Self>, lease: Lease) -> Result<Slot, NetworkError> {
        let plan = SlotPlan::new(&self.config, lease.index);
        let netns = Arc::new(crate::prepare::prepare(&plan, self.config.guest_link, &self.root).await?);
        self.furnish(lease, plan, netns).await
    }

    /// Opens the name server of a wired slot.
    pub(crate) async fn furnish(
        self: &Arc<Self>,
        lease: Lease,
        plan: SlotPlan,
        netns: Arc<OwnedFd>,
    ) -> Result<Slot, NetworkError> {
        let served = self.dns.serve(&self.worker, netns.clone()).await;
        let (dns, names) = served.map_err(|source| NetworkError::Dns { index: plan.index, source })?;
        let tasks = Arc::default();
        let gatekeeper = Gatekeeper::new(self.clone(), plan.clone(), &netns, names, &tasks);
        Ok(Slot { lease, plan, netns, dns, gatekeeper, tasks })
    }
}

//! One sandbox's slot: a network namespace that is held by a descriptor, and connections into it.

use crate::error::NetworkError;
use crate::links;
use crate::namespace::NamespaceThread;
use crate::plan::SlotPlan;
use crate::policy::{PolicyInstaller, SlotTasks};
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

// A connection into a guest that no longer acknowledges is given up after this, in milliseconds. A killed VMM sends no
// reset, and a lingering socket would keep the namespace, and with it the index, from being released.
const USER_TIMEOUT_MS: u32 = 60_000;
// Keepalive finds the same for idle connections, within a minute: the first probe after 30 s, then one every 10 s, and
// three unanswered ones end it.
const KEEPALIVE_IDLE_S: u32 = 30;
const KEEPALIVE_INTERVAL_S: u32 = 10;
const KEEPALIVE_PROBES: u32 = 3;

/// A network namespace for one sandbox, from which nothing leaves before it has a policy. It is used once: after it is
/// closed or dropped, the namespace ends with the VMM in it, and only then the index, which decides addresses and uid,
/// is given out again.
#[derive(Debug)]
pub struct Slot {
    lease: Lease,
    plan: SlotPlan,
    netns: Arc<OwnedFd>,
    /// The tasks of the slot's name server.
    dns: JoinSet<()>,
    policy_installer: PolicyInstaller,
    /// The tasks of the slot's policy.
    tasks: Arc<SlotTasks>,
}

impl Slot {
    /// The slot's index, which is stored in the database so that a restarted server can adopt the slot.
    pub fn index(&self) -> u32 {
        self.plan.index
    }

    /// The uid of its VMM. It owns the taps, and no other slot has it at the same time.
    pub fn uid(&self) -> u32 {
        self.plan.uid
    }

    /// The namespace in which the VMM runs. Whoever keeps the descriptor longer than the sandbox lives keeps the index
    /// from being released.
    pub fn netns(&self) -> Arc<OwnedFd> {
        self.netns.clone()
    }

    /// Connects to an address inside the slot, usually
    /// [`net::CHANNEL_GUEST`](leapbox_guest_protocol::net::CHANNEL_GUEST).
    ///
    /// # Errors
    /// `TimedOut` after `timeout`, else what the connect has returned.
    pub async fn connect(&self, address: SocketAddrV4, timeout: Duration) -> io::Result<TcpStream> {
        connect(self.netns.clone(), &self.lease.shared.netns_thread, address, timeout).await
    }

    /// Returns the installer of the slot's policy.
    pub fn policy_installer(&self) -> PolicyInstaller {
        self.policy_installer.clone()
    }

    /// Returns a connector into the slot, which does not keep the slot alive.
    pub fn connector(&self) -> SlotConnector {
        SlotConnector { netns: Arc::downgrade(&self.netns), netns_thread: self.lease.shared.netns_thread.clone() }
    }

    /// Cuts the slot off at once, name server and proxy included. It is called when the VMM has ended or is about to.
    /// The index is freed when the namespace no longer exists, which this does not wait for.
    pub async fn close(mut self) {
        self.dns.shutdown().await;
        self.tasks.shutdown().await;
        // A process may still hold the namespace (a VMM that is slow to die): it must reach nothing from now on.
        let routing = &self.lease.shared.root.routing;
        if let Err(error) = links::cut(routing, &self.plan.veth).await {
            let index = self.plan.index;
            tracing::warn!(index, error = %chain(&error), "a closed slot stays connected until its VMM has ended");
        }
    }

    pub(crate) fn veth(&self) -> &str {
        &self.plan.veth
    }
}

/// Opens connections into a slot for as long as the slot exists. It is cheap to clone.
#[derive(Debug, Clone)]
pub struct SlotConnector {
    netns: Weak<OwnedFd>,
    netns_thread: NamespaceThread,
}

impl SlotConnector {
    /// As [`Slot::connect`].
    ///
    /// # Errors
    /// In addition, `NotConnected` once the slot is closed.
    pub async fn connect(&self, address: SocketAddrV4, timeout: Duration) -> io::Result<TcpStream> {
        let netns = self.netns.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        connect(netns, &self.netns_thread, address, timeout).await
    }
}

async fn connect(
    netns: Arc<OwnedFd>,
    netns_thread: &NamespaceThread,
    address: SocketAddrV4,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let connecting = async {
        // Only the socket is made inside the namespace. It belongs there from then on, so any thread can connect it.
        let socket = netns_thread.run(netns, tcp_socket).await?;
        socket.connect(address.into()).await
    };
    tokio::time::timeout(timeout, connecting).await.map_err(|_: Elapsed| io::ErrorKind::TimedOut)?
}

/// Makes a socket. It runs on the namespace thread, inside the slot.
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
    /// Prepares the slot of an index, name server included.
    pub(crate) async fn make(self: Arc<Self>, lease: Lease) -> Result<Slot, NetworkError> {
        let plan = SlotPlan::new(&self.config, lease.index);
        let netns = Arc::new(crate::prepare::prepare(&plan, self.config.guest_link, &self.root).await?);
        self.attach_dns(lease, plan, netns).await
    }

    /// Opens the name server of a slot whose interfaces are set up, and completes the slot.
    pub(crate) async fn attach_dns(
        self: &Arc<Self>,
        lease: Lease,
        plan: SlotPlan,
        netns: Arc<OwnedFd>,
    ) -> Result<Slot, NetworkError> {
        let served = self.dns.serve(&self.netns_thread, netns.clone()).await;
        let (dns, name_server) = served.map_err(|source| NetworkError::Dns { index: plan.index, source })?;
        let tasks = Arc::default();
        let policy_installer = PolicyInstaller::new(self.clone(), plan.clone(), &netns, name_server, &tasks);
        Ok(Slot { lease, plan, netns, dns, policy_installer, tasks })
    }
}

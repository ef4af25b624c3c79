//! Installs a sandbox's policy in its slot, once in the slot's life.
//!
//! ```text
//! new slot ── install ──┬─ names: the name server answers what the policy allows
//!                       ├─ proxy: listens inside the slot (not under allow-all)
//!                       └─ kernel: elements of the slot's sets, and of the host-wide table for opened networks
//! ```
//!
//! The order is from the inside out, so that nothing is redirected to a proxy that does not listen yet. A slot in
//! which a previous server has installed a policy stays as it is while the same policy is installed again.

use crate::dns::{NamePolicy, SlotNameServer};
use crate::error::NetworkError;
use crate::namespace;
use crate::nft;
use crate::plan::SlotPlan;
use crate::prepare::blocking;
use crate::refusals;
use crate::rules::{self, PROXY_PORT};
use crate::shared::Shared;
use leapbox_egress::{Authority, EgressContext, Journal, NameServer};
use leapbox_egress_policy::{Cidr, Evaluator, Policy};
use leapbox_errors::chain;
use leapbox_guest_protocol::net::WORKLOAD_GATEWAY;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket, sockopt,
};
use parking_lot::{Mutex, MutexGuard};
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};
use tokio::task::JoinSet;

// Connections of one guest that wait to be accepted: as many as the proxy takes, so that a burst is not refused by the
// queue.
const BACKLOG: i32 = 1024;
// QUIC's port, closed under `custom` so that clients fall back to TCP, where the name can be seen.
const QUIC_PORT: u16 = 443;

/// The policy for a slot, and the sandbox that it belongs to.
#[derive(Debug, Clone)]
pub struct SlotPolicy {
    /// The sandbox's id, for logs and metrics.
    pub sandbox: String,
    pub policy: Arc<Policy>,
    /// The sandbox's certificate authority, which is needed if the policy has transforms.
    pub authority: Option<Arc<Authority>>,
}

/// Installs a slot's policy. `lifecycle` keeps it with the sandbox's VM; it does not keep the slot alive.
#[derive(Debug, Clone)]
pub struct PolicyInstaller {
    shared: Arc<Shared>,
    plan: SlotPlan,
    netns: Weak<OwnedFd>,
    name_server: Arc<SlotNameServer>,
    tasks: Weak<SlotTasks>,
}

/// The tasks of a slot's policy: the proxy, and the log of the kernel's refusals. They end with the slot.
#[derive(Debug, Default)]
pub(crate) struct SlotTasks(Mutex<JoinSet<()>>);

impl SlotTasks {
    fn running(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock()
    }

    /// Ends the tasks, which resets the proxy's connections.
    pub(crate) async fn shutdown(&self) {
        let mut tasks = std::mem::take(&mut *self.running());
        tasks.shutdown().await;
    }
}

impl PolicyInstaller {
    pub(crate) fn new(
        shared: Arc<Shared>,
        plan: SlotPlan,
        netns: &Arc<OwnedFd>,
        name_server: Arc<SlotNameServer>,
        tasks: &Arc<SlotTasks>,
    ) -> Self {
        Self { shared, plan, netns: Arc::downgrade(netns), name_server, tasks: Arc::downgrade(tasks) }
    }

    /// Installs the policy of a new slot, from which nothing leaves before. It takes a few milliseconds, most of them
    /// for starting `nft`.
    pub async fn install(&self, slot_policy: SlotPolicy) -> Result<(), NetworkError> {
        self.put_in_force(slot_policy, String::new()).await
    }

    /// Installs the policy again in an adopted slot, whose connections go on.
    pub async fn install_again(&self, slot_policy: SlotPolicy) -> Result<(), NetworkError> {
        self.put_in_force(slot_policy, rules::no_slot_policy()).await
    }

    async fn put_in_force(&self, slot_policy: SlotPolicy, before: String) -> Result<(), NetworkError> {
        let SlotPolicy { sandbox, policy, authority } = slot_policy;
        let config = &self.shared.config;
        let evaluator = Arc::new(Evaluator::new(policy, config.egress_private_cidrs.clone()));
        let journal = Arc::new(Journal::new(sandbox));
        let name_policy = NamePolicy { evaluator: evaluator.clone(), journal: journal.clone() };
        // Set once, and first: it is what makes a second call fail before anything is changed.
        if !self.name_server.set_policy(name_policy) {
            return Err(NetworkError::PolicySet { index: self.plan.index });
        }
        // Held to the end: the slot's index is not released, and its opened networks not closed, while they are being
        // opened. It comes before the journal is noted, because the index of a slot that is gone may be another's by
        // now.
        let netns = self.netns.upgrade().ok_or(NetworkError::SlotGone { index: self.plan.index })?;
        self.shared.sandboxes().entry(self.plan.index).or_default().journal = Some(journal.clone());
        self.watch_refusals(&netns, &evaluator, &journal).await;
        if *evaluator.policy() != Policy::AllowAll {
            self.start_proxy(&netns, evaluator.clone(), journal, authority).await?;
        }
        self.shared.open_networks(&self.plan, evaluator.opened_networks()).await?;
        let closed_udp: &[u16] = if matches!(evaluator.policy(), Policy::Custom(_)) { &[QUIC_PORT] } else { &[] };
        // One transaction: no packet meets the sets between the previous server's elements and the new ones.
        let script = before + &rules::slot_policy_script(&evaluator.direct(), closed_udp);
        if script.is_empty() {
            return Ok(());
        }
        namespace::inside(netns, move || nft::apply(&script)).await
    }

    async fn start_proxy(
        &self,
        netns: &Arc<OwnedFd>,
        evaluator: Arc<Evaluator>,
        journal: Arc<Journal>,
        authority: Option<Arc<Authority>>,
    ) -> Result<(), NetworkError> {
        let failed = |source| NetworkError::Proxy { index: self.plan.index, source };
        let listener = self.shared.netns_thread.run(netns.clone(), listener).await.map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        let name_server: Arc<dyn NameServer> = self.name_server.clone();
        let context = EgressContext::new(evaluator, name_server, journal, authority);
        self.spawn(leapbox_egress::serve(self.shared.proxy.clone(), context, listener));
        Ok(())
    }

    /// Starts the log of what the kernel refuses, if the kernel offers one. The refusals do not depend on it.
    async fn watch_refusals(&self, netns: &Arc<OwnedFd>, evaluator: &Arc<Evaluator>, journal: &Arc<Journal>) {
        match self.shared.netns_thread.run(netns.clone(), refusals::open).await.and_then(refusals::Refusals::new) {
            Ok(refusals) => self.spawn(refusals.report(evaluator.clone(), journal.clone())),
            Err(error) => tracing::debug!(error = %chain(&error), "a sandbox's refused packets will not be logged"),
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = self.tasks.upgrade() {
            tasks.running().spawn(task);
        }
    }
}

/// Opens the proxy's listener. It runs on the namespace thread, inside the slot.
fn listener() -> io::Result<std::net::TcpListener> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    // Sockets of a previous server's connections may still exist at this address, and would make the bind fail.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(WORKLOAD_GATEWAY, PROXY_PORT)))?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd.into())
}

impl Shared {
    /// Opens networks of the operator's list to one slot, until its index is released.
    async fn open_networks(self: &Arc<Self>, plan: &SlotPlan, networks: Vec<Cidr>) -> Result<(), NetworkError> {
        if networks.is_empty() {
            return Ok(());
        }
        let script = rules::open_networks(&self.config.instance, plan.slot_address, &networks);
        // Noted before they are opened: a caller that gives up meanwhile must not leave them open to the slot's
        // successor.
        self.sandboxes().entry(plan.index).or_default().opened = networks;
        let (shared, index) = (self.clone(), plan.index);
        blocking(move || {
            let _changing = shared.host_table.lock();
            let opened = nft::apply(&script);
            if let Some(sandbox) = shared.sandboxes().get_mut(&index) {
                match opened {
                    Ok(()) => sandbox.in_force = true,
                    Err(_) => sandbox.opened.clear(),
                }
            }
            opened
        })
        .await
    }

    /// Forgets the sandbox of a slot that no longer exists, and closes the networks that were opened to it.
    /// Returns false if that failed; the index must then not be given out again, because its next sandbox would reach
    /// them.
    pub(crate) async fn forget_sandbox(self: &Arc<Self>, index: u32) -> bool {
        let opened = self.sandboxes().get(&index).map(|sandbox| sandbox.opened.clone()).unwrap_or_default();
        if opened.is_empty() {
            self.sandboxes().remove(&index);
            return true;
        }
        let address = SlotPlan::new(&self.config, index).slot_address;
        let script = rules::close_networks(&self.config.instance, address, &opened);
        let shared = self.clone();
        let closed = blocking(move || {
            // Held until the sandbox is forgotten: the watch would open its networks again in between.
            let _changing = shared.host_table.lock();
            nft::apply(&script)?;
            shared.sandboxes().remove(&index);
            Ok(())
        });
        if let Err(error) = closed.await {
            tracing::error!(
                index,
                error = %chain(&error),
                "opened networks could not be closed after their slot's end: its index is not used until they are"
            );
            return false;
        }
        true
    }
}

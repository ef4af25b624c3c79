//! A slot's policy: what is closed from birth is opened, once, as far as its sandbox may go.
//!
//! ```text
//! born closed ── admit ──┬─ names: the resolver answers what the policy allows
//!                        ├─ proxy: listens inside the slot (not under allow-all)
//!                        └─ kernel: elements of the slot's sets, and of the host-wide table for private networks
//! ```
//!
//! The order is from the inside out: nothing is steered to a proxy that is not there yet. A slot that a former server
//! has opened stays open as it is while the same policy is put under it again.

use crate::dns::{Ruling, SlotNames};
use crate::error::NetworkError;
use crate::namespace;
use crate::nft;
use crate::plan::SlotPlan;
use crate::prepare::blocking;
use crate::refusals;
use crate::rules::{self, PROXY_PORT};
use crate::shared::Shared;
use leapbox_egress::{Authority, Gate, Journal, Names};
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

/// Connections of one guest that wait to be accepted.
const BACKLOG: i32 = 1024;
/// QUIC's port: closed under `custom`, so that clients fall back to TCP, where names can be seen.
const QUIC_PORT: u16 = 443;

/// Whose policy a slot gets.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The sandbox's id, for logs and metrics.
    pub sandbox: String,
    /// Where it may go.
    pub policy: Arc<Policy>,
    /// Its own certificate authority; needed if the policy has transforms.
    pub authority: Option<Arc<Authority>>,
}

/// The way to give a slot its policy, for those who hand its machine over. It does not keep the slot alive.
#[derive(Debug, Clone)]
pub struct Gatekeeper {
    shared: Arc<Shared>,
    plan: SlotPlan,
    netns: Weak<OwnedFd>,
    names: Arc<SlotNames>,
    tasks: Weak<SlotTasks>,
}

/// What a slot's policy keeps running: the proxy and the log of refusals. The slot's own, and ended with it.
#[derive(Debug, Default)]
pub(crate) struct SlotTasks(Mutex<JoinSet<()>>);

impl SlotTasks {
    fn running(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock()
    }

    /// Ends them, the proxy's connections with them.
    pub(crate) async fn shutdown(&self) {
        let mut tasks = std::mem::take(&mut *self.running());
        tasks.shutdown().await;
    }
}

impl Gatekeeper {
    pub(crate) fn new(
        shared: Arc<Shared>,
        plan: SlotPlan,
        netns: &Arc<OwnedFd>,
        names: Arc<SlotNames>,
        tasks: &Arc<SlotTasks>,
    ) -> Self {
        Self { shared, plan, netns: Arc::downgrade(netns), names, tasks: Arc::downgrade(tasks) }
    }

    /// Puts a policy in force in a slot that has none; until then nothing leaves it. A few milliseconds.
    pub async fn admit(&self, admission: Admission) -> Result<(), NetworkError> {
        self.put_in_force(admission, String::new()).await
    }

    /// The same for a slot that a former server has opened: connections go on.
    pub async fn admit_again(&self, admission: Admission) -> Result<(), NetworkError> {
        self.put_in_force(admission, rules::no_slot_policy()).await
    }

    async fn put_in_force(&self, admission: Admission, before: String) -> Result<(), NetworkError> {
        let Admission { sandbox, policy, authority } = admission;
        let config = &self.shared.config;
        let evaluator = Arc::new(Evaluator::new(policy, config.egress_private_cidrs.clone()));
        let journal = Arc::new(Journal::new(sandbox));
        let ruling = Ruling { evaluator: evaluator.clone(), journal: journal.clone() };
        if !self.names.rule(ruling) {
            return Err(NetworkError::PolicySet { index: self.plan.index });
        }
        self.shared.tenants().entry(self.plan.index).or_default().journal = Some(journal.clone());
        let netns = self.netns.upgrade().ok_or(NetworkError::Stopping)?;
        self.watch_refusals(&netns, &evaluator, &journal).await;
        if *evaluator.policy() != Policy::AllowAll {
            self.start_proxy(&netns, evaluator.clone(), journal, authority).await?;
        }
        self.shared.open_private(&self.plan, evaluator.exceptions()).await?;
        let closed_udp: &[u16] = if matches!(evaluator.policy(), Policy::Custom(_)) { &[QUIC_PORT] } else { &[] };
        let script = before + &rules::slot_policy(&evaluator.direct(), closed_udp);
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
        let listener = self.shared.worker.run(netns.clone(), listener).await.map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        let names: Arc<dyn Names> = self.names.clone();
        let gate = Gate::new(evaluator, names, journal, authority);
        self.spawn(leapbox_egress::serve(self.shared.proxy.clone(), gate, listener));
        Ok(())
    }

    /// What the kernel refuses is logged, if it can be: that it is refused does not depend on it.
    async fn watch_refusals(&self, netns: &Arc<OwnedFd>, evaluator: &Arc<Evaluator>, journal: &Arc<Journal>) {
        match self.shared.worker.run(netns.clone(), refusals::open).await.and_then(refusals::Refusals::new) {
            Ok(refusals) => self.spawn(refusals.tell(evaluator.clone(), journal.clone())),
            Err(error) => tracing::debug!(error = %chain(&error), "the kernel does not tell which packets it refuses"),
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = self.tasks.upgrade() {
            tasks.running().spawn(task);
        }
    }
}

/// Runs on the worker, inside the slot.
fn listener() -> io::Result<std::net::TcpListener> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    // The sockets of a former server's connections may still be there.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(WORKLOAD_GATEWAY, PROXY_PORT)))?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd.into())
}

impl Shared {
    /// Opens private networks of the operator's list to a slot, until its index is released.
    async fn open_private(self: &Arc<Self>, plan: &SlotPlan, private: Vec<Cidr>) -> Result<(), NetworkError> {
        if private.is_empty() {
            return Ok(());
        }
        let script = rules::open_private(&self.config.instance, plan.slot_address, &private);
        // Noted first: a caller that is gone meanwhile must not leave them open to the slot's successor.
        self.tenants().entry(plan.index).or_default().private = private;
        let (shared, index) = (self.clone(), plan.index);
        blocking(move || {
            let opened = nft::apply(&script);
            if opened.is_err()
                && let Some(tenant) = shared.tenants().get_mut(&index)
            {
                tenant.private.clear();
            }
            opened
        })
        .await
    }

    /// Forgets the sandbox of a slot that is gone, and closes what was opened to it; false if that could not be done:
    /// then the index must not be given out again.
    pub(crate) async fn evict(&self, index: u32) -> bool {
        let private = self.tenants().get(&index).map(|tenant| tenant.private.clone()).unwrap_or_default();
        if !private.is_empty() {
            let address = SlotPlan::new(&self.config, index).slot_address;
            let script = rules::close_private(&self.config.instance, address, &private);
            if let Err(error) = blocking(move || nft::apply(&script)).await {
                tracing::error!(
                    index,
                    error = %chain(&error),
                    "private networks stay open to a slot"
                );
                return false;
            }
        }
        self.tenants().remove(&index);
        true
    }
}

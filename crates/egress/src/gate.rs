//! One sandbox's gate: its policy, the names that its resolver knows, its journal, and its certificate authority.

use crate::authority::Authority;
use crate::journal::Journal;
use crate::limits::{OF_A_SANDBOX, UNDECIDED};
use leapbox_egress_policy::{DomainName, Evaluator};
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The sandbox's resolver, as the proxy needs it. The network crate implements it over the memory of what the resolver
/// has answered, so that a name the guest has just looked up is not asked for again.
#[async_trait::async_trait]
pub trait Names: Send + Sync {
    /// The IPv4 addresses of an allowed name, in the order of the answer; none if there are none or nobody answers.
    async fn resolve(&self, name: &DomainName) -> Vec<Ipv4Addr>;

    /// The allowed name for which this address was lately answered to this sandbox.
    fn answered(&self, address: Ipv4Addr) -> Option<DomainName>;
}

/// What decides about one sandbox's connections.
pub struct Gate {
    pub(crate) evaluator: Arc<Evaluator>,
    pub(crate) names: Arc<dyn Names>,
    pub(crate) journal: Arc<Journal>,
    /// There if the policy has transforms.
    pub(crate) authority: Option<Arc<Authority>>,
    /// Free places of this sandbox.
    pub(crate) connections: Arc<Semaphore>,
    /// Those of them for connections without a decision.
    pub(crate) undecided: Arc<Semaphore>,
}

impl Gate {
    /// A gate with all places free. A policy with transforms needs an authority: without one their domains are refused.
    #[must_use]
    pub fn new(
        evaluator: Arc<Evaluator>,
        names: Arc<dyn Names>,
        journal: Arc<Journal>,
        authority: Option<Arc<Authority>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            evaluator,
            names,
            journal,
            authority,
            connections: Arc::new(Semaphore::new(OF_A_SANDBOX)),
            undecided: Arc::new(Semaphore::new(UNDECIDED)),
        })
    }

    /// How many of the sandbox's connections are in the proxy now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        OF_A_SANDBOX - self.connections.available_permits()
    }
}

//! The decisions. Pure: the same question has the same answer for ever.

use crate::cidr::{Cidr, merged};
use crate::denial::Denial;
use crate::name::DomainName;
use crate::pattern::DomainPattern;
use crate::policy::{Custom, Policy, Transform};
use crate::unreachable;
use std::cmp::Reverse;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// How an allowed name's connection passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage<'p> {
    /// Its bytes are not touched.
    Opaque,
    /// Its TLS is terminated and its requests are changed.
    Transform(&'p Transform),
}

/// A policy, ready to be asked.
#[derive(Debug)]
pub struct Evaluator {
    policy: Arc<Policy>,
    /// The policy's networks that lie wholly in one of the operator's, without overlap.
    exceptions: Vec<Cidr>,
    /// Positions of the policy's transforms, the most particular first.
    transforms: Vec<usize>,
}

impl Evaluator {
    /// `operator` lists the private networks that a policy may open by naming them.
    pub fn new(policy: Arc<Policy>, operator: Vec<Cidr>) -> Self {
        let (exceptions, transforms) = match policy.as_ref() {
            Policy::AllowAll | Policy::DenyAll => (Vec::new(), Vec::new()),
            Policy::Custom(custom) => (named_by_both(custom, &operator), by_particularity(custom)),
        };
        Self { policy, exceptions, transforms }
    }

    /// The policy itself.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether a name may be asked for and connected to, and how. Transforms go before `allow_domains`, and among
    /// them the most particular pattern.
    pub fn name(&self, name: &DomainName) -> Result<Passage<'_>, Denial> {
        let custom = match self.policy.as_ref() {
            Policy::AllowAll => return Ok(Passage::Opaque),
            Policy::DenyAll => return Err(Denial::DenyAll),
            Policy::Custom(custom) => custom,
        };
        let mut transforms = self.transforms.iter().filter_map(|at| custom.transforms.get(*at));
        if let Some(transform) = transforms.find(|transform| transform.domain.matches(name)) {
            return Ok(Passage::Transform(transform));
        }
        if custom.allow_domains.iter().any(|domain: &DomainPattern| domain.matches(name)) {
            return Ok(Passage::Opaque);
        }
        Err(Denial::Name { name: name.clone() })
    }

    /// Whether an allowed name may lead to the address: to none that is unreachable by nature, unless operator and
    /// policy both name it.
    pub fn address(&self, address: Ipv4Addr) -> Result<(), Denial> {
        if *self.policy == Policy::DenyAll {
            return Err(Denial::DenyAll);
        }
        match unreachable::why(address) {
            Some(what) if !self.exceptions.iter().any(|open| open.contains(address)) => {
                Err(Denial::Address { address, what })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What leaves by address, past the proxy: ranges, both ends included, in order and apart from each other. What of
    /// them is unreachable by nature, the host's rules refuse.
    pub fn direct(&self) -> Vec<(Ipv4Addr, Ipv4Addr)> {
        match self.policy.as_ref() {
            Policy::AllowAll => vec![(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)],
            Policy::DenyAll => Vec::new(),
            Policy::Custom(custom) => merged(&custom.allow_cidrs),
        }
    }

    /// The policy's networks that lie wholly in one of the operator's, without overlap: what the host's rules open to
    /// this sandbox alone.
    pub fn exceptions(&self) -> Vec<Cidr> {
        self.exceptions.clone()
    }
}

/// A network is named by an entry that lies in the operator's, not by one that merely covers it: `0.0.0.0/0` opens
/// nothing private.
fn named_by_both(custom: &Custom, operator: &[Cidr]) -> Vec<Cidr> {
    let named = |cidr: &&Cidr| operator.iter().any(|open| open.contains_all(cidr));
    let mut common: Vec<Cidr> = custom.allow_cidrs.iter().filter(named).copied().collect();
    // A larger network comes before those in it.
    common.sort_by_key(|cidr| (cidr.first(), Reverse(cidr.last())));
    common.dedup_by(|next, kept| kept.contains_all(next));
    common
}

fn by_particularity(custom: &Custom) -> Vec<usize> {
    let mut order: Vec<(usize, &Transform)> = custom.transforms.iter().enumerate().collect();
    order.sort_by_key(|(_, transform)| Reverse(transform.domain.particularity()));
    order.into_iter().map(|(at, _)| at).collect()
}

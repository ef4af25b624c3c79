//! Decides what a policy allows. The evaluator is pure: the same question always has the same answer, so the name
//! server, the proxy and the kernel's rules of one sandbox cannot disagree.

use crate::cidr::{Cidr, merged};
use crate::denial::Denial;
use crate::name::DomainName;
use crate::pattern::DomainPattern;
use crate::policy::{Custom, Policy, Transform};
use crate::unreachable;
use std::cmp::Reverse;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// How the connections to an allowed name are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage<'p> {
    /// The bytes pass unread and unchanged.
    Opaque,
    /// The proxy terminates TLS and rewrites each request's headers.
    Transform(&'p Transform),
}

/// A policy together with the networks that it has opened. One is made when a slot gets its policy.
#[derive(Debug)]
pub struct Evaluator {
    policy: Arc<Policy>,
    opened: Vec<Cidr>,
    /// Positions of the policy's transforms, the most specific pattern first.
    transforms: Vec<usize>,
}

impl Evaluator {
    /// `operator` lists the private networks that a policy may open by naming them (`egress_private_cidrs`).
    pub fn new(policy: Arc<Policy>, operator: Vec<Cidr>) -> Self {
        let (opened, transforms) = match policy.as_ref() {
            Policy::AllowAll | Policy::DenyAll => (Vec::new(), Vec::new()),
            Policy::Custom(custom) => (named_by_both(custom, &operator), by_specificity(custom)),
        };
        Self { policy, opened, transforms }
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Decides whether a name may be looked up and connected to, and how.
    pub fn name(&self, name: &DomainName) -> Result<Passage<'_>, Denial> {
        let custom = match self.policy.as_ref() {
            Policy::AllowAll => return Ok(Passage::Opaque),
            Policy::DenyAll => return Err(Denial::DenyAll),
            Policy::Custom(custom) => custom,
        };
        // Transforms count before `allow_domains`: an entry that allows the name as well must not bypass the transform.
        let mut transforms = self.transforms.iter().filter_map(|at| custom.transforms.get(*at));
        if let Some(transform) = transforms.find(|transform| transform.domain.matches(name)) {
            return Ok(Passage::Transform(transform));
        }
        if custom.allow_domains.iter().any(|domain: &DomainPattern| domain.matches(name)) {
            return Ok(Passage::Opaque);
        }
        Err(Denial::Name { name: name.clone() })
    }

    /// Decides whether an allowed name may lead to the address. The name server asks it of each answer, and the proxy
    /// once more right before it dials, because a name's owner chooses its addresses (DNS rebinding).
    pub fn address(&self, address: Ipv4Addr) -> Result<(), Denial> {
        if *self.policy == Policy::DenyAll {
            return Err(Denial::DenyAll);
        }
        match unreachable::why_closed(address) {
            Some(what) if !self.opened.iter().any(|network| network.contains(address)) => {
                Err(Denial::Address { address, what })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The addresses that the sandbox reaches directly, without the proxy, as inclusive ranges in ascending order that
    /// do not touch. They may include closed addresses, whose packets the host's rules drop.
    pub fn direct(&self) -> Vec<(Ipv4Addr, Ipv4Addr)> {
        match self.policy.as_ref() {
            Policy::AllowAll => vec![(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)],
            Policy::DenyAll => Vec::new(),
            Policy::Custom(custom) => merged(&custom.allow_cidrs),
        }
    }

    /// The opened networks, which the host's rules open to this sandbox alone: entries of `allow_cidrs` that lie wholly
    /// in one of the operator's networks, without overlap.
    pub fn opened_networks(&self) -> Vec<Cidr> {
        self.opened.clone()
    }
}

fn named_by_both(custom: &Custom, operator: &[Cidr]) -> Vec<Cidr> {
    // An entry must lie in the operator's network. One that merely covers it does not name it, so that `0.0.0.0/0`
    // opens nothing private.
    let named = |cidr: &&Cidr| operator.iter().any(|open| open.contains_all(cidr));
    let mut common: Vec<Cidr> = custom.allow_cidrs.iter().filter(named).copied().collect();
    // A larger network comes before those in it, and drops them: the host's interval set takes no overlapping elements.
    common.sort_by_key(|cidr| (cidr.first(), Reverse(cidr.last())));
    common.dedup_by(|next, kept| kept.contains_all(next));
    common
}

fn by_specificity(custom: &Custom) -> Vec<usize> {
    let mut order: Vec<(usize, &Transform)> = custom.transforms.iter().enumerate().collect();
    order.sort_by_key(|(_, transform)| Reverse(transform.domain.specificity()));
    order.into_iter().map(|(at, _)| at).collect()
}

//! One slot's name server: the policy for its queries, and the cache of this slot's answers.
//!
//! The slot's egress proxy resolves through it ([`NameServer`]), so that it dials the address that the guest was
//! answered. Only the proxy is answered from the cache; the guest's own queries are always forwarded. A program
//! whose protocol shows no name reaches an address only if the guest itself was answered it.

use super::Dns;
use super::addresses::{addresses_in, remove_closed};
use super::limits::{FAIR_QUERIES, MAX_QUERIES, SLOT_QUERIES, SlotLimits};
use async_trait::async_trait;
use hickory_resolver::proto::rr::{Name, RecordType};
use leapbox_egress::{Journal, NameServer};
use leapbox_egress_policy::{Denial, DomainName, Evaluator};
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

// The guest chooses what it asks for; these three bound the memory that its answers take.
/// Names in one slot's cache.
const NAMES_MAX: usize = 512;
/// Addresses of one name's last answer.
const ADDRESSES_MAX: usize = 32;
/// Addresses of one name that the guest was answered recently.
const ANSWERED_MAX: usize = 64;
// The proxy uses an answer for its TTL within these bounds. A shorter time would cost a query for every connection; a
// longer one would keep the sandbox at an address that the name has left.
const USABLE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
// A guest may dial an address at least this long after the answer: names with a TTL of a few seconds are common, and
// programs resolve first and connect later.
const DIALABLE_AT_LEAST: Duration = Duration::from_secs(120);

/// A slot's policy for names, and the journal of what it refuses.
#[derive(Debug)]
pub(crate) struct NamePolicy {
    pub(crate) evaluator: Arc<Evaluator>,
    pub(crate) journal: Arc<Journal>,
}

/// One slot's name server, which its egress proxy uses as well.
pub(crate) struct SlotNameServer {
    pub(super) shared: Arc<Dns>,
    pub(super) limits: SlotLimits,
    /// Set once the slot has its policy; before, every query is refused.
    name_policy: OnceLock<NamePolicy>,
    cache: Mutex<HashMap<DomainName, CachedName>>,
}

/// The answers for one allowed name.
#[derive(Debug)]
struct CachedName {
    /// The addresses of the last answer, for the proxy. Empty if the name has none.
    addresses: Vec<Ipv4Addr>,
    usable_until: Instant,
    /// The addresses that the guest itself was answered, each with the end of the time in which it may dial it.
    answered: Vec<(Ipv4Addr, Instant)>,
}

impl CachedName {
    fn is_expired(&self, now: Instant) -> bool {
        self.usable_until <= now && self.answered.iter().all(|(_, until)| *until <= now)
    }

    /// Notes that the guest is answered `addresses` now. The oldest addresses are dropped if there are too many.
    fn note_answered(&mut self, now: Instant, until: Instant) {
        let addresses = &self.addresses;
        self.answered.retain(|(address, until)| *until > now && !addresses.contains(address));
        self.answered.extend(addresses.iter().map(|address| (*address, until)));
        let surplus = self.answered.len().saturating_sub(ANSWERED_MAX);
        self.answered.drain(..surplus);
    }
}

impl std::fmt::Debug for SlotNameServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlotNameServer").field("name_policy", &self.name_policy).finish_non_exhaustive()
    }
}

impl SlotNameServer {
    pub(super) fn new(shared: Arc<Dns>) -> Self {
        Self { shared, limits: SlotLimits::new(), name_policy: OnceLock::new(), cache: Mutex::default() }
    }

    /// Sets the policy. Returns false if there is one already.
    pub(crate) fn set_policy(&self, name_policy: NamePolicy) -> bool {
        self.name_policy.set(name_policy).is_ok()
    }

    pub(super) fn name_policy(&self) -> Option<&NamePolicy> {
        self.name_policy.get()
    }

    /// Whether one more query, which already holds its permit, leaves the other slots their share.
    pub(super) fn within_share(&self) -> bool {
        let held = SLOT_QUERIES - self.limits.queries.available_permits();
        held <= FAIR_QUERIES || self.shared.queries.available_permits() >= MAX_QUERIES / 2
    }

    /// Caches an answer that the guest is about to get.
    pub(super) fn cache_answered(&self, name: DomainName, addresses: Vec<Ipv4Addr>, ttl_s: u32) {
        let now = Instant::now();
        self.cache_addresses(name, addresses, ttl_s, |known| {
            known.note_answered(now, now + usable(ttl_s).max(DIALABLE_AT_LEAST))
        });
    }

    fn cache_addresses(
        &self,
        name: DomainName,
        mut addresses: Vec<Ipv4Addr>,
        ttl_s: u32,
        then: impl FnOnce(&mut CachedName),
    ) {
        addresses.truncate(ADDRESSES_MAX);
        let now = Instant::now();
        let mut cache = self.cache();
        if cache.len() >= NAMES_MAX && !cache.contains_key(&name) {
            make_space(&mut cache, now);
        }
        let known = cache.entry(name).or_insert_with(|| CachedName {
            addresses: Vec::new(),
            usable_until: now,
            answered: Vec::new(),
        });
        // That a name has no address is cached as well, so that a failing name does not cost a query for each
        // connection. It does not replace an answer that is still valid: the upstream may only be slow.
        if addresses.is_empty() && known.usable_until > now {
            return;
        }
        (known.addresses, known.usable_until) = (addresses, now + usable(ttl_s));
        then(known);
    }

    fn cache(&self) -> MutexGuard<'_, HashMap<DomainName, CachedName>> {
        self.cache.lock()
    }
}

fn usable(ttl_s: u32) -> Duration {
    Duration::from_secs(ttl_s.into()).clamp(USABLE.0, USABLE.1)
}

/// Removes the names whose answers have expired, or else the one whose answer expires first.
fn make_space(cache: &mut HashMap<DomainName, CachedName>, now: Instant) {
    cache.retain(|_, known| !known.is_expired(now));
    if cache.len() >= NAMES_MAX {
        let first = cache.iter().min_by_key(|(_, known)| known.usable_until).map(|(name, _)| name.clone());
        first.and_then(|name| cache.remove(&name));
    }
}

#[async_trait]
impl NameServer for SlotNameServer {
    async fn resolve(&self, name: &DomainName) -> Vec<Ipv4Addr> {
        let now = Instant::now();
        if let Some(known) = self.cache().get(name).filter(|known| known.usable_until > now) {
            return known.addresses.clone();
        }
        // A connection for a name costs as much of the rate as a query for it: otherwise connections to made-up names
        // would be the faster tunnel.
        if !self.limits.within_custom_rate() {
            if let Some(name_policy) = self.name_policy.get() {
                name_policy.journal.deny(&Denial::TooMany { what: "names" });
            }
            return vec![];
        }
        let (Some(name_policy), Ok(asked)) = (self.name_policy.get(), Name::from_ascii(format!("{name}."))) else {
            return vec![];
        };
        // Waits in turn with the guest's own queries. The semaphore is never closed.
        let Ok(_permit) = self.limits.queries.acquire().await else { return vec![] };
        let (_, mut records, _) = self.shared.ask(asked, RecordType::A).await;
        for denial in remove_closed(&name_policy.evaluator, &mut records) {
            name_policy.journal.deny(&denial);
        }
        let (addresses, ttl_s) = addresses_in(&records);
        // Not noted as answered to the guest: only what it has asked for itself may it dial without a name.
        self.cache_addresses(name.clone(), addresses.clone(), ttl_s, |_| {});
        addresses
    }

    fn answered(&self, address: Ipv4Addr) -> Option<DomainName> {
        let now = Instant::now();
        let dialable = |known: &CachedName| known.answered.iter().any(|(one, until)| *one == address && *until > now);
        let cache = self.cache();
        let found = cache.iter().find(|(_, known)| dialable(known));
        found.map(|(name, _)| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Upstream;

    fn name(text: &str) -> DomainName {
        DomainName::parse(text).expect("name")
    }

    fn names() -> SlotNameServer {
        let upstream = Upstream::new(Some(&[])).expect("no servers");
        SlotNameServer::new(Arc::new(Dns::new(upstream)))
    }

    #[test]
    fn only_addresses_the_guest_was_told_count_as_answered() {
        let (names, told, resolved) = (names(), Ipv4Addr::new(93, 184, 216, 34), Ipv4Addr::new(93, 184, 216, 35));
        names.cache_answered(name("example.com"), vec![told], 60);
        names.cache_addresses(name("example.net"), vec![resolved], 60, |_| {});
        assert_eq!(names.answered(told), Some(name("example.com")));
        assert_eq!(names.answered(resolved), None);
    }

    #[test]
    fn an_address_the_guest_was_told_before_still_counts_when_the_name_has_moved() {
        let (names, old, new) = (names(), Ipv4Addr::new(93, 184, 216, 34), Ipv4Addr::new(93, 184, 216, 35));
        names.cache_answered(name("example.com"), vec![old], 60);
        names.cache_answered(name("example.com"), vec![new], 60);
        assert!(names.answered(old).is_some() && names.answered(new).is_some());
        assert_eq!(names.cache()[&name("example.com")].addresses, [new]);
    }

    #[tokio::test]
    async fn names_of_connections_are_held_to_the_rate_of_queries_and_failures_are_remembered() {
        let names = names();
        let policy = serde_json::json!({ "mode": "custom", "allow_domains": ["*.example.com"] });
        let policy = Arc::new(leapbox_egress_policy::Policy::stored(&policy).expect("policy"));
        let journal = Arc::new(Journal::new("sbx-test".into()));
        let evaluator = Arc::new(Evaluator::new(policy, vec![]));
        assert!(names.set_policy(NamePolicy { evaluator, journal: journal.clone() }));
        for _ in 0..300 {
            assert_eq!(names.resolve(&name("same.example.com")).await, [Ipv4Addr::UNSPECIFIED; 0]);
        }
        let refused =
            || journal.snapshot().denials.iter().find(|(rule, _)| *rule == "too_many").map(|(_, count)| *count);
        assert_eq!(refused(), Some(0));
        for number in 0..300 {
            names.resolve(&name(&format!("n{number}.example.com"))).await;
        }
        assert!(refused() > Some(100), "{:?}", refused());
    }

    #[test]
    fn a_guest_that_asks_for_ever_new_names_fills_no_memory() {
        let names = names();
        for number in 0..2 * NAMES_MAX {
            names.cache_answered(name(&format!("n{number}.example.com")), vec![Ipv4Addr::LOCALHOST; 100], 60);
        }
        let cache = names.cache();
        assert_eq!(cache.len(), NAMES_MAX);
        assert!(
            cache.values().all(|known| known.addresses.len() <= ADDRESSES_MAX && known.answered.len() <= ANSWERED_MAX)
        );
    }
}

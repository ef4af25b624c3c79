//! One slot's name service: what its sandbox may ask, and what it was told.
//!
//! The egress proxy resolves through the same memory, so that it dials the address the guest was told; a program whose
//! protocol shows no name reaches an address only if it is in here.

use super::Dns;
use super::addresses::{addresses_in, remove_inside};
use super::limits::{FAIR_QUERIES, MAX_QUERIES, SLOT_QUERIES, SlotLimits};
use async_trait::async_trait;
use hickory_resolver::proto::rr::{Name, RecordType};
use leapbox_egress::{Journal, Names};
use leapbox_egress_policy::{Denial, DomainName, Evaluator};
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Names kept of one slot.
const NAMES_MAX: usize = 512;
/// Addresses kept of one name.
const ADDRESSES_MAX: usize = 32;
/// Addresses of one name that the guest was told of late.
const TOLD_MAX: usize = 64;
/// Whatever its TTL says, an answer is used for so long by the proxy …
const USED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// … and a guest that was told an address may take this long to use it.
const TOLD_AT_LEAST: Duration = Duration::from_secs(120);

/// What a slot's policy says of names, and who is told what was denied.
#[derive(Debug)]
pub(crate) struct Ruling {
    pub(crate) evaluator: Arc<Evaluator>,
    pub(crate) journal: Arc<Journal>,
}

/// One slot's name service.
pub(crate) struct SlotNames {
    pub(super) shared: Arc<Dns>,
    pub(super) limits: SlotLimits,
    /// None as long as the slot has no sandbox: everything is refused.
    ruling: OnceLock<Ruling>,
    memory: Mutex<HashMap<DomainName, Remembered>>,
}

/// What an allowed name was said to be.
#[derive(Debug)]
struct Remembered {
    /// The last answer, for the proxy.
    addresses: Vec<Ipv4Addr>,
    usable_until: Instant,
    /// What the guest itself has been told of late, and may dial until then.
    told: Vec<(Ipv4Addr, Instant)>,
}

impl Remembered {
    fn is_over(&self, now: Instant) -> bool {
        self.usable_until <= now && self.told.iter().all(|(_, until)| *until <= now)
    }

    /// Adds what the guest is told now; the oldest goes when there are too many.
    fn tell(&mut self, now: Instant, until: Instant) {
        let addresses = &self.addresses;
        self.told.retain(|(address, until)| *until > now && !addresses.contains(address));
        self.told.extend(addresses.iter().map(|address| (*address, until)));
        let surplus = self.told.len().saturating_sub(TOLD_MAX);
        self.told.drain(..surplus);
    }
}

impl std::fmt::Debug for SlotNames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlotNames").field("ruling", &self.ruling).finish_non_exhaustive()
    }
}

impl SlotNames {
    pub(super) fn new(shared: Arc<Dns>) -> Self {
        Self { shared, limits: SlotLimits::new(), ruling: OnceLock::new(), memory: Mutex::default() }
    }

    /// Puts a policy in force; false if there is one already.
    pub(crate) fn rule(&self, ruling: Ruling) -> bool {
        self.ruling.set(ruling).is_ok()
    }

    pub(super) fn ruling(&self) -> Option<&Ruling> {
        self.ruling.get()
    }

    /// Whether one more query, which has its permit already, leaves the others their share.
    pub(super) fn within_share(&self) -> bool {
        let held = SLOT_QUERIES - self.limits.queries.available_permits();
        held <= FAIR_QUERIES || self.shared.queries.available_permits() >= MAX_QUERIES / 2
    }

    /// Keeps what the guest is about to be told.
    pub(super) fn remember_told(&self, name: DomainName, addresses: Vec<Ipv4Addr>, ttl_s: u32) {
        let now = Instant::now();
        self.remember(name, addresses, ttl_s, |known| known.tell(now, now + usable(ttl_s).max(TOLD_AT_LEAST)));
    }

    fn remember(&self, name: DomainName, mut addresses: Vec<Ipv4Addr>, ttl_s: u32, then: impl FnOnce(&mut Remembered)) {
        addresses.truncate(ADDRESSES_MAX);
        let now = Instant::now();
        let mut memory = self.memory();
        if memory.len() >= NAMES_MAX && !memory.contains_key(&name) {
            make_room(&mut memory, now);
        }
        let known = memory.entry(name).or_insert_with(|| Remembered {
            addresses: Vec::new(),
            usable_until: now,
            told: Vec::new(),
        });
        // That there is none is remembered, too, but not in the place of better knowledge.
        if addresses.is_empty() && known.usable_until > now {
            return;
        }
        (known.addresses, known.usable_until) = (addresses, now + usable(ttl_s));
        then(known);
    }

    fn memory(&self) -> MutexGuard<'_, HashMap<DomainName, Remembered>> {
        self.memory.lock()
    }
}

fn usable(ttl_s: u32) -> Duration {
    Duration::from_secs(ttl_s.into()).clamp(USED.0, USED.1)
}

/// Forgets what is over, or else what ends first.
fn make_room(memory: &mut HashMap<DomainName, Remembered>, now: Instant) {
    memory.retain(|_, remembered| !remembered.is_over(now));
    if memory.len() >= NAMES_MAX {
        let first = memory.iter().min_by_key(|(_, remembered)| remembered.usable_until).map(|(name, _)| name.clone());
        first.and_then(|name| memory.remove(&name));
    }
}

#[async_trait]
impl Names for SlotNames {
    async fn resolve(&self, name: &DomainName) -> Vec<Ipv4Addr> {
        let now = Instant::now();
        if let Some(known) = self.memory().get(name).filter(|known| known.usable_until > now) {
            return known.addresses.clone();
        }
        // A connection's name costs what a query for it costs: else it would be the better tunnel.
        if !self.limits.within_custom_rate() {
            if let Some(ruling) = self.ruling.get() {
                ruling.journal.deny(&Denial::TooMany { what: "names" });
            }
            return vec![];
        }
        let (Some(ruling), Ok(asked)) = (self.ruling.get(), Name::from_ascii(format!("{name}."))) else {
            return vec![];
        };
        // In turn with the guest's own queries; closed it is never.
        let Ok(_permit) = self.limits.queries.acquire().await else { return vec![] };
        let (_, mut records, _) = self.shared.ask(asked, RecordType::A).await;
        for denial in remove_inside(&ruling.evaluator, &mut records) {
            ruling.journal.deny(&denial);
        }
        let (addresses, ttl_s) = addresses_in(&records);
        self.remember(name.clone(), addresses.clone(), ttl_s, |_| {});
        addresses
    }

    fn answered(&self, address: Ipv4Addr) -> Option<DomainName> {
        let now = Instant::now();
        let told = |known: &Remembered| known.told.iter().any(|(told, until)| *told == address && *until > now);
        let memory = self.memory();
        let found = memory.iter().find(|(_, known)| told(known));
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

    fn names() -> SlotNames {
        let upstream = Upstream::new(Some(&[])).expect("no servers");
        SlotNames::new(Arc::new(Dns::new(upstream)))
    }

    #[test]
    fn only_addresses_the_guest_was_told_count_as_answered() {
        let (names, told, resolved) = (names(), Ipv4Addr::new(93, 184, 216, 34), Ipv4Addr::new(93, 184, 216, 35));
        names.remember_told(name("example.com"), vec![told], 60);
        names.remember(name("example.net"), vec![resolved], 60, |_| {});
        assert_eq!(names.answered(told), Some(name("example.com")));
        assert_eq!(names.answered(resolved), None);
    }

    #[test]
    fn an_address_the_guest_was_told_before_still_counts_when_the_name_has_moved() {
        let (names, old, new) = (names(), Ipv4Addr::new(93, 184, 216, 34), Ipv4Addr::new(93, 184, 216, 35));
        names.remember_told(name("example.com"), vec![old], 60);
        names.remember_told(name("example.com"), vec![new], 60);
        assert!(names.answered(old).is_some() && names.answered(new).is_some());
        assert_eq!(names.memory()[&name("example.com")].addresses, [new]);
    }

    #[tokio::test]
    async fn names_of_connections_are_held_to_the_rate_of_queries_and_failures_are_remembered() {
        let names = names();
        let policy = serde_json::json!({ "mode": "custom", "allow_domains": ["*.example.com"] });
        let policy = Arc::new(leapbox_egress_policy::Policy::stored(&policy).expect("policy"));
        let journal = Arc::new(Journal::new("sbx-test".into()));
        let evaluator = Arc::new(Evaluator::new(policy, vec![]));
        assert!(names.rule(Ruling { evaluator, journal: journal.clone() }));
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
            names.remember_told(name(&format!("n{number}.example.com")), vec![Ipv4Addr::LOCALHOST; 100], 60);
        }
        let memory = names.memory();
        assert_eq!(memory.len(), NAMES_MAX);
        assert!(memory.values().all(|known| known.addresses.len() <= ADDRESSES_MAX && known.told.len() <= TOLD_MAX));
    }
}

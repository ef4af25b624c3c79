//! The limits on queries: of one slot, and of all slots together.

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Longest query in bytes. A header, a name of at most 255 bytes and EDNS options fit.
pub(super) const MAX_QUERY: usize = 1024;
// The largest answer that needs no IP fragments on common paths (DNS flag day 2020). Fragments can be forged, and
// firewalls drop them.
/// Longest answer over UDP in bytes.
pub(super) const MAX_UDP_ANSWER: u16 = 1232;
// Each query holds a socket or two to the upstream, so this also bounds the server's descriptors.
/// Queries under way to the upstream, over all slots.
pub(super) const MAX_QUERIES: usize = 1024;
/// Queries of one slot under way.
pub(super) const SLOT_QUERIES: usize = 32;
// While less than half of MAX_QUERIES are free, a slot may have this many. 32 slots that only ask names without an
// answer would otherwise take all of them.
/// Queries of one slot under way while the others need them.
pub(super) const FAIR_QUERIES: usize = 8;
// Each holds a task and a descriptor for up to TCP_DEADLINE; a guest's DNS library opens one.
/// TCP connections of one slot.
const SLOT_CONNECTIONS: usize = 8;
/// Queries a second of one slot under every policy, and how many may come at once. Those beyond are dropped unread.
const SLOT_RATE: NonZeroU32 = NonZeroU32::new(200).expect("not zero");
const SLOT_BURST: NonZeroU32 = NonZeroU32::new(400).expect("not zero");

// The rate for names that a `custom` policy allows, in addition to SLOT_RATE. Whoever owns a name below an allowed
// wildcard can carry data out in the labels of queries, so they are few: 30 a second is ample for a page's names, and
// slow for a tunnel.
const CUSTOM_RATE: NonZeroU32 = NonZeroU32::new(30).expect("not zero");
const CUSTOM_BURST: NonZeroU32 = NonZeroU32::new(150).expect("not zero");
// Enough for large sets of records (TXT of mail domains), and a bound on what such a tunnel carries in.
/// Longest answer over TCP under a `custom` policy, in bytes.
pub(super) const MAX_CUSTOM_ANSWER: usize = 4096;

// Three attempts of upstream's ATTEMPT_TIMEOUT fit into it.
/// The time after which a query is answered with SERVFAIL.
pub(super) const QUERY_DEADLINE: Duration = Duration::from_secs(8);
/// The time for each message of a TCP connection, idle time included (RFC 7766, 6.2.3 leaves it to the server).
pub(super) const TCP_DEADLINE: Duration = Duration::from_secs(10);

/// One slot's limits, over UDP and TCP together.
pub(super) struct SlotLimits {
    rate: DefaultDirectRateLimiter,
    custom_rate: DefaultDirectRateLimiter,
    pub(super) queries: Arc<Semaphore>,
    pub(super) connections: Arc<Semaphore>,
}

impl SlotLimits {
    pub(super) fn new() -> Self {
        Self {
            rate: RateLimiter::direct(Quota::per_second(SLOT_RATE).allow_burst(SLOT_BURST)),
            custom_rate: RateLimiter::direct(Quota::per_second(CUSTOM_RATE).allow_burst(CUSTOM_BURST)),
            queries: Arc::new(Semaphore::new(SLOT_QUERIES)),
            connections: Arc::new(Semaphore::new(SLOT_CONNECTIONS)),
        }
    }

    /// Whether one more query is within the rate.
    pub(super) fn within_rate(&self) -> bool {
        self.rate.check().is_ok()
    }

    /// Whether one more query for an allowed name is within the rate of a `custom` policy.
    pub(super) fn within_custom_rate(&self) -> bool {
        self.custom_rate.check().is_ok()
    }
}

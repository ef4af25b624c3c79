//! How much one slot may ask for, and all of them together.

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Longest query in bytes: a name of 255, a question, and room for EDNS options.
pub(super) const MAX_QUERY: usize = 1024;
/// Largest answer over UDP in bytes that never needs fragments (DNS flag day 2020).
pub(super) const MAX_UDP_ANSWER: u16 = 1232;
/// Queries under way over all slots; each holds a socket or two to the upstream.
pub(super) const MAX_QUERIES: usize = 1024;
/// Queries under way of one slot.
pub(super) const SLOT_QUERIES: usize = 32;
/// The same while less than half of all are free: nobody fills them for the others.
pub(super) const FAIR_QUERIES: usize = 8;
/// TCP connections of one slot.
const SLOT_CONNECTIONS: usize = 8;
/// Queries a second of one slot, and how many may come at once.
const SLOT_RATE: NonZeroU32 = NonZeroU32::new(200).expect("not zero");
const SLOT_BURST: NonZeroU32 = NonZeroU32::new(400).expect("not zero");

/// The same for names that a `custom` policy allows, which are few: whoever may ask for all names below one of his own
/// could carry data out in them.
const CUSTOM_RATE: NonZeroU32 = NonZeroU32::new(30).expect("not zero");
const CUSTOM_BURST: NonZeroU32 = NonZeroU32::new(150).expect("not zero");
/// Longest answer over TCP under a `custom` policy, in bytes.
pub(super) const MAX_CUSTOM_ANSWER: usize = 4096;

/// When a query counts as unanswered.
pub(super) const QUERY_DEADLINE: Duration = Duration::from_secs(8);
/// How long a TCP connection may be idle, or slow in one message (RFC 7766 leaves it to the server).
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

    /// Whether one more query for an allowed name is within what a `custom` policy gives.
    pub(super) fn within_custom_rate(&self) -> bool {
        self.custom_rate.check().is_ok()
    }
}

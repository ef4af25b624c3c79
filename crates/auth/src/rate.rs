//! Limits the requests of an organisation in any period of time.
//!
//! The limit is exact, so the times of the last admitted requests are kept: 16 bytes each, 16 KB for an organisation
//! that uses up the default limit. A token bucket would admit up to twice the limit in one period.

use leapbox_ids::OrganisationId;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The rate limit of each organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests in any one period; 0 means no limit.
    pub requests: u32,
    pub period: Duration,
}

impl Default for RateLimit {
    /// The limit that the Leap0 API documents for its control plane: 1000 requests in 60 s.
    fn default() -> Self {
        Self { requests: 1000, period: Duration::from_secs(60) }
    }
}

/// The requests of all organisations.
pub(crate) struct RateLimiter {
    limit: RateLimit,
    /// Times of each organisation's admitted requests in the last period, oldest first.
    admitted: Mutex<HashMap<OrganisationId, VecDeque<Instant>>>,
}

impl RateLimiter {
    pub(crate) fn new(limit: RateLimit) -> Self {
        Self { limit, admitted: Mutex::default() }
    }

    /// Admits a request, or returns the number of whole seconds after which one will be admitted. Refused requests do
    /// not count, so that a client that keeps asking is not locked out for ever.
    pub(crate) fn check(&self, organisation: &OrganisationId, now: Instant) -> Result<(), u64> {
        if self.limit.requests == 0 {
            return Ok(());
        }
        // Only authenticated requests get here, so there are no more entries than organisations in the database.
        let mut admitted = self.admitted.lock();
        match admitted.get_mut(organisation) {
            Some(times) => admit(times, self.limit, now),
            None => {
                admitted.insert(organisation.clone(), VecDeque::from([now]));
                Ok(())
            }
        }
    }
}

fn admit(times: &mut VecDeque<Instant>, limit: RateLimit, now: Instant) -> Result<(), u64> {
    while times.front().is_some_and(|oldest| now.saturating_duration_since(*oldest) >= limit.period) {
        times.pop_front();
    }
    match times.front() {
        Some(oldest) if times.len() >= limit.requests as usize => {
            let wait = limit.period.saturating_sub(now.saturating_duration_since(*oldest));
            // Rounded up: a client that waits as long as it reads must be admitted.
            Err(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
        }
        _ => {
            times.push_back(now);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limiter(requests: u32, seconds: u64) -> RateLimiter {
        RateLimiter::new(RateLimit { requests, period: Duration::from_secs(seconds) })
    }

    #[test]
    fn the_thousand_and_first_request_within_a_minute_is_refused_until_the_first_is_a_minute_old() {
        let limiter = RateLimiter::new(RateLimit::default());
        let organisation = OrganisationId::generate();
        let start = Instant::now();
        for request in 0..1000 {
            assert_eq!(limiter.check(&organisation, start + Duration::from_millis(request * 20)), Ok(()));
        }
        assert_eq!(limiter.check(&organisation, start + Duration::from_secs(20)), Err(40));
        assert_eq!(limiter.check(&organisation, start + Duration::from_millis(59_500)), Err(1));
        assert_eq!(limiter.check(&organisation, start + Duration::from_secs(60)), Ok(()));
        assert_eq!(limiter.check(&organisation, start + Duration::from_secs(60)), Err(1));
    }

    #[test]
    fn organisations_do_not_use_up_each_others_limit() {
        let limiter = limiter(1, 60);
        let (one, other) = (OrganisationId::generate(), OrganisationId::generate());
        let now = Instant::now();
        assert_eq!(limiter.check(&one, now), Ok(()));
        assert_eq!(limiter.check(&one, now), Err(60));
        assert_eq!(limiter.check(&other, now), Ok(()));
    }

    #[test]
    fn a_limit_of_zero_is_no_limit() {
        let limiter = limiter(0, 60);
        let organisation = OrganisationId::generate();
        assert!((0..5000).all(|_| limiter.check(&organisation, Instant::now()).is_ok()));
    }

    proptest! {
        #[test]
        fn no_window_ever_has_more_than_the_limit_and_the_told_wait_suffices(
            gaps in prop::collection::vec(0u64..4000, 1..200),
            requests in 1u32..6,
        ) {
            let limiter = limiter(requests, 10);
            let organisation = OrganisationId::generate();
            let mut now = Instant::now();
            let mut admitted: Vec<Instant> = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                match limiter.check(&organisation, now) {
                    Ok(()) => admitted.push(now),
                    Err(seconds) => {
                        prop_assert!((1..=10).contains(&seconds));
                        now += Duration::from_secs(seconds);
                        prop_assert_eq!(limiter.check(&organisation, now), Ok(()));
                        admitted.push(now);
                    }
                }
            }
            for window in admitted.windows(requests as usize + 1) {
                prop_assert!(window[requests as usize] - window[0] >= Duration::from_secs(10));
            }
        }
    }
}

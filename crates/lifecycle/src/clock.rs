//! Times: Unix milliseconds for the database, RFC 3339 for the API, and milliseconds since the host's boot for what must
//! not depend on a clock that can be set.

use nix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The current Unix time in milliseconds.
pub(crate) fn now_ms() -> i64 {
    now_ns() / 1_000_000
}

/// The current Unix time in nanoseconds, as an agent takes it; a clock before 1970 counts as 1970.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Milliseconds since the host's boot, time in which it was suspended included (`CLOCK_BOOTTIME`, clock_gettime(2)).
pub(crate) fn boot_ms() -> i64 {
    // The kernel knows this clock and fills the structure, so it cannot fail.
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// Formats a time as RFC 3339 in UTC, with milliseconds unless they are zero; empty for a year beyond 9999.
pub(crate) fn rfc3339(unix_ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_since_the_boot_goes_on() {
        let before = boot_ms();
        std::thread::sleep(Duration::from_millis(2));
        assert!(before > 0 && boot_ms() > before);
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    }
}

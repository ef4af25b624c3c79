//! Records one sandbox's egress: counters for metrics, and a bounded log of denials.
//!
//! A *denial* ([`Denial`]) is the decision with its reason; *refusing* is what then happens to the query, packet,
//! connection or request: an answer, a reset, an ICMP message. Each denial is counted (`egress_denied_total`) and
//! logged (event `egress_refused`). Among them are `unresolved`, `server_silent` and `upstream`, for names that the
//! policy allows but that lead nowhere, and `too_many` and `slow`, for limits.
//!
//! The proxy, the sandbox's name server and the reader of the kernel's log write into the same journal; the server
//! reads it for its metrics. A flood of denials costs the log five lines a second, and one more with the number left
//! out. The counters have every denial of a name, a connection or a request, but not every packet: the kernel reports
//! at most 20 packets a second (crate `leapbox-network`, `rules/slot.nft`), and none of those that the host's table
//! drops (`rules/host.nft`).

use leapbox_egress_policy::Denial;
use parking_lot::Mutex;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

// A guest can cause thousands of denials a second, and must not fill the host's disk with the log.
/// Log lines of one sandbox per `WINDOW`.
const LINES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(1);

/// The kind of a proxied connection, once it is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TLS that is passed on without being decrypted.
    Tls,
    /// HTTP/1 that is not encrypted.
    Http,
    /// A protocol in which the server speaks first.
    ServerFirst,
    /// TLS that the proxy terminates for a transform.
    Transform,
}

impl Kind {
    /// Every kind in the order of declaration, which is the index of its counter.
    pub const ALL: [Self; 4] = [Self::Tls, Self::Http, Self::ServerFirst, Self::Transform];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http => "http",
            Self::ServerFirst => "server_first",
            Self::Transform => "transform",
        }
    }
}

/// One sandbox's journal, made with its policy and dropped with its slot.
#[derive(Debug)]
pub struct Journal {
    sandbox: String,
    connections: [AtomicU64; Kind::ALL.len()],
    from_sandbox: AtomicU64,
    to_sandbox: AtomicU64,
    denials: [AtomicU64; Denial::RULES.len()],
    log: Mutex<Window>,
}

/// The budget of log lines in the current second.
#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
    left_out: u64,
}

/// A journal's counters at one moment, counted since the journal was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalNumbers {
    /// Connections that were allowed, by kind ([`Kind::label`]).
    pub connections: Vec<(&'static str, u64)>,
    /// Bytes that proxied connections carried out of the sandbox.
    pub bytes_from_sandbox: u64,
    /// Bytes that proxied connections carried into the sandbox.
    pub bytes_to_sandbox: u64,
    /// Denials by rule ([`Denial::rule`]), including the rules with a count of 0.
    pub denials: Vec<(&'static str, u64)>,
}

impl Journal {
    /// Makes an empty journal. `sandbox` is the sandbox's id, which is a field of each log line.
    #[must_use]
    pub fn new(sandbox: String) -> Self {
        let log = Mutex::new(Window { since: Instant::now(), lines: 0, left_out: 0 });
        Self {
            sandbox,
            connections: Default::default(),
            from_sandbox: AtomicU64::new(0),
            to_sandbox: AtomicU64::new(0),
            denials: std::array::from_fn(|_| AtomicU64::new(0)),
            log,
        }
    }

    #[must_use]
    pub fn sandbox(&self) -> &str {
        &self.sandbox
    }

    /// Counts a denial, and logs it if the budget of lines allows.
    pub fn deny(&self, denial: &Denial) {
        self.note(denial, None);
    }

    /// As [`Self::deny`], for a connection that the guest has opened to `destination`.
    pub(crate) fn deny_to(&self, denial: &Denial, destination: SocketAddrV4) {
        self.note(denial, Some(destination));
    }

    /// Counts a connection that is allowed.
    pub(crate) fn opened(&self, kind: Kind) {
        self.connections[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn bytes_from_sandbox(&self) -> &AtomicU64 {
        &self.from_sandbox
    }

    pub(crate) fn bytes_to_sandbox(&self) -> &AtomicU64 {
        &self.to_sandbox
    }

    #[must_use]
    pub fn snapshot(&self) -> JournalNumbers {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        JournalNumbers {
            connections: Kind::ALL.iter().map(|kind| kind.label()).zip(self.connections.iter().map(read)).collect(),
            bytes_from_sandbox: read(&self.from_sandbox),
            bytes_to_sandbox: read(&self.to_sandbox),
            denials: Denial::RULES.iter().copied().zip(self.denials.iter().map(read)).collect(),
        }
    }

    fn note(&self, denial: &Denial, destination: Option<SocketAddrV4>) {
        let rule = denial.rule();
        if let Some(at) = Denial::RULES.iter().position(|known| *known == rule) {
            self.denials[at].fetch_add(1, Ordering::Relaxed);
        }
        let Some(left_out) = self.may_log(Instant::now()) else { return };
        self.log_left_out(left_out);
        let destination = destination.map(tracing::field::display);
        let sandbox = &self.sandbox;
        // The target is not the crate's name: operators filter by it (`LEAPBOX_LOG`), whichever crate denies.
        tracing::info!(target: "egress", event = "egress_refused", %sandbox, rule, destination, "refused: {denial}");
    }

    /// Returns whether a line may be logged now (`Some`), and how many were left out since the last one.
    fn may_log(&self, now: Instant) -> Option<u64> {
        let mut window = self.log.lock();
        if now.duration_since(window.since) >= WINDOW {
            (window.since, window.lines) = (now, 0);
        }
        if window.lines == LINES {
            window.left_out += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.left_out))
    }

    fn log_left_out(&self, left_out: u64) {
        if left_out > 0 {
            let sandbox = &self.sandbox;
            tracing::info!(
                target: "egress", event = "egress_left_out", %sandbox, left_out,
                "more was refused than is logged; the metrics count these refusals as well"
            );
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // A flood that lasted to the sandbox's end has no later line that would tell its number.
        let left_out = self.log.get_mut().left_out;
        self.log_left_out(left_out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_rule_and_a_flood_is_logged_five_times_a_second() {
        let journal = Journal::new("flooded".into());
        let now = Instant::now();
        let logged: Vec<_> = (0..100).map(|_| journal.may_log(now)).collect();
        assert_eq!(logged.iter().flatten().count(), LINES as usize);
        assert_eq!(journal.may_log(now + WINDOW), Some(95));
        assert_eq!(journal.may_log(now + WINDOW), Some(0));

        (0..7).for_each(|_| journal.deny(&Denial::DenyAll));
        let numbers = journal.snapshot();
        assert_eq!(
            numbers.denials.iter().find(|(rule, _)| *rule == Denial::DenyAll.rule()).map(|found| found.1),
            Some(7)
        );
        assert_eq!(numbers.denials.iter().map(|(_, n)| n).sum::<u64>(), 7);
    }

    #[test]
    fn connections_are_counted_by_kind() {
        let journal = Journal::new("busy".into());
        journal.opened(Kind::ServerFirst);
        journal.opened(Kind::ServerFirst);
        journal.opened(Kind::Tls);
        assert_eq!(journal.snapshot().connections, [("tls", 1), ("http", 0), ("server_first", 2), ("transform", 0)]);
    }
}

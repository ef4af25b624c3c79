//! What one sandbox's egress has done: numbers for metrics, and a bounded log of what was refused.
//!
//! The proxy and the sandbox's resolver write into the same journal; the server reads it for its metrics. A flood of
//! refusals costs the log five lines a second and one that tells how many were left out.

use leapbox_egress_policy::Denial;
use parking_lot::Mutex;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Lines of one sandbox in the log, per `WINDOW`.
const LINES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(1);

/// What a proxied connection turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TLS that is passed on unopened.
    Tls,
    /// Plain HTTP/1.
    Http,
    /// A protocol in which the server speaks first.
    Nameless,
    /// TLS that is terminated for a transform.
    Transform,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Tls, Self::Http, Self::Nameless, Self::Transform];

    /// The metric's label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Nameless => "nameless",
            Self::Transform => "transform",
        }
    }
}

/// One sandbox's journal.
#[derive(Debug)]
pub struct Journal {
    sandbox: String,
    connections: [AtomicU64; Kind::ALL.len()],
    from_sandbox: AtomicU64,
    to_sandbox: AtomicU64,
    denials: [AtomicU64; Denial::RULES.len()],
    log: Mutex<Window>,
}

/// The log's budget.
#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
    left_out: u64,
}

/// A journal's numbers at one moment, all of them since the journal was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalNumbers {
    /// Connections that were let through, by kind ([`Kind::label`]).
    pub connections: Vec<(&'static str, u64)>,
    /// Bytes that proxied connections carried out of the sandbox.
    pub bytes_from_sandbox: u64,
    /// Bytes that proxied connections carried into the sandbox.
    pub bytes_to_sandbox: u64,
    /// Refusals by rule ([`Denial::rule`]), rules without any among them.
    pub denials: Vec<(&'static str, u64)>,
}

impl Journal {
    /// An empty journal; `sandbox` is the name that the log calls it by.
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

    /// The sandbox's id.
    #[must_use]
    pub fn sandbox(&self) -> &str {
        &self.sandbox
    }

    /// Notes a refusal.
    pub fn deny(&self, denial: &Denial) {
        self.note(denial, None);
    }

    /// Notes the refusal of a connection that the guest has opened to `destination`.
    pub(crate) fn deny_to(&self, denial: &Denial, destination: SocketAddrV4) {
        self.note(denial, Some(destination));
    }

    /// Notes a connection that is let through.
    pub(crate) fn opened(&self, kind: Kind) {
        self.connections[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The counter of bytes out of the sandbox.
    pub(crate) fn bytes_from_sandbox(&self) -> &AtomicU64 {
        &self.from_sandbox
    }

    /// The counter of bytes into the sandbox.
    pub(crate) fn bytes_to_sandbox(&self) -> &AtomicU64 {
        &self.to_sandbox
    }

    /// The numbers so far.
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
        tracing::info!(target: "egress", event = "egress_refused", %sandbox, rule, destination, "refused: {denial}");
    }

    /// Whether a line may be written now, and how many were left out in the window before it.
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
            tracing::info!(target: "egress", event = "egress_left_out", %sandbox, left_out, "more was refused than is logged");
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
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
        journal.opened(Kind::Nameless);
        journal.opened(Kind::Nameless);
        journal.opened(Kind::Tls);
        assert_eq!(journal.snapshot().connections, [("tls", 1), ("http", 0), ("nameless", 2), ("transform", 0)]);
    }
}

//! What was measured, and how it is shown.

use crate::egress::EgressFigures;
use crate::proxy::{Comparison, ProxyFigures};
use serde::Serialize;
use std::fmt;
use std::time::Instant;

pub type Millis = f64;

pub fn ms_since(start: Instant) -> Millis {
    start.elapsed().as_secs_f64() * 1000.0
}

/// The middle value, the upper one of two.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Samples of one step, in ms.
#[derive(Debug, Default)]
pub struct Samples(Vec<Millis>);

impl Samples {
    pub fn push(&mut self, ms: Millis) {
        self.0.push(ms);
    }

    /// The value below which a share of the samples lies (nearest rank).
    pub fn percentile(&self, share: f64) -> Millis {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    pub fn p50(&self) -> Millis {
        self.percentile(0.5)
    }
}

impl Serialize for Samples {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut fields = serializer.serialize_struct("Samples", 4)?;
        fields.serialize_field("n", &self.0.len())?;
        fields.serialize_field("p50_ms", &self.p50())?;
        fields.serialize_field("p95_ms", &self.percentile(0.95))?;
        fields.serialize_field("p99_ms", &self.percentile(0.99))?;
        fields.end()
    }
}

/// What the VMMs of idle sandboxes have of their own.
#[derive(Debug, Serialize)]
pub struct Idle {
    pub sandboxes: u32,
    pub private_mib_median: f64,
    pub private_mib_max: f64,
    /// Whether each has run a command afterwards.
    pub all_answered: bool,
}

/// What is stored of a paused sandbox.
#[derive(Debug, Serialize)]
pub struct Stored {
    /// What its guest was made to write.
    pub written_bytes: u64,
    /// Before compression.
    pub plain_bytes: u64,
    pub stored_bytes: u64,
}

/// Everything measured in one run.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Guest code runs on the CPU itself: other promises hold than under emulation.
    pub virtualised: bool,
    pub cold: Option<Millis>,
    pub floor: Samples,
    pub restored_create: Samples,
    pub restored_first_answer: Samples,
    pub pooled_create: Samples,
    pub pooled_first_answer: Samples,
    pub burst_without_pool: Samples,
    pub burst: Samples,
    pub get: Samples,
    pub wake: Samples,
    pub pause_small: Samples,
    pub pause_large: Samples,
    pub stored: Option<Stored>,
    pub idle: Option<Idle>,
    pub proxy: Option<ProxyFigures>,
    pub egress: Option<EgressFigures>,
}

impl Report {
    /// The promises about what was measured.
    fn goals(&self) -> Vec<Goal> {
        let floor = self.floor.p50();
        // A jail costs the same few system calls wherever it is made; in the KVM test host those are emulated.
        let restored = if self.virtualised { 1.5 } else { 1.3 };
        let own_mib = if self.virtualised { 8.0 } else { 64.0 };
        let burst = self.burst.percentile(0.95) / self.restored_create.p50();
        let mut goals = vec![
            Goal::at_most("restored: first answer / floor", self.restored_first_answer.p50() / floor, restored),
            Goal::at_most("pool: create, ms", self.pooled_create.p50(), 30.0),
            Goal::at_most("pool: first answer / floor", self.pooled_first_answer.p50() / floor, 0.5),
            Goal::at_most("burst: p95 / single restored create", burst, 6.0),
            Goal::at_most("GET a sandbox, ms", self.get.p50(), 1.0),
            Goal::at_most("wake by a request / floor", self.wake.p50() / floor, 1.5),
            Goal::at_most(
                "pause: 4 GiB / 1 GiB, same pages written",
                self.pause_large.p50() / self.pause_small.p50(),
                1.3,
            ),
        ];
        if let Some(stored) = &self.stored {
            let ratio = stored.plain_bytes as f64 / stored.written_bytes as f64;
            goals.push(Goal::at_most("stored before compression / written", ratio, 1.2));
        }
        if let Some(idle) = &self.idle {
            goals.push(Goal::at_most("idle sandbox, MiB of its own", idle.private_mib_max, own_mib));
        }
        if let Some(proxy) = &self.proxy {
            let ratios =
                [("gateway / nginx, 128 B answers", &proxy.small), ("gateway / nginx, 1 MiB answers", &proxy.bulk)];
            goals.extend(ratios.into_iter().filter_map(|(name, c)| Some(Goal::at_least(name, c.ratio?, 0.8))));
        }
        if let Some(egress) = &self.egress {
            goals.extend(egress_goals(egress));
        }
        // What was not measured is not a number.
        goals.retain(|goal| !goal.measured.is_nan());
        goals
    }
}

fn egress_goals(egress: &EgressFigures) -> Vec<Goal> {
    let opaque = &egress.opaque;
    let ratios = [
        ("opaque / haproxy, bulk, 1 connection", &opaque.bulk),
        ("opaque / haproxy, bulk, 4 connections", &opaque.bulk_of_several),
        ("opaque / haproxy, new connections", &opaque.connections),
    ];
    let mut goals: Vec<Goal> =
        ratios.into_iter().filter_map(|(name, c)| Some(Goal::at_least(name, c.ratio?, 0.7))).collect();
    let admission = egress.admission;
    goals.push(Goal::at_most("a policy put in force, p95, ms", admission.p95_ms, 10.0));
    let more = admission.rules_after as f64 - admission.rules_before as f64;
    goals.push(Goal::at_most("rules that 100 policies add on the host", more, 0.0));
    goals
}

/// One promise and what was measured.
#[derive(Debug, Clone, Copy)]
struct Goal {
    name: &'static str,
    measured: f64,
    bound: f64,
    better: Better,
}

impl Goal {
    fn at_most(name: &'static str, measured: f64, bound: f64) -> Self {
        Self { name, measured, bound, better: Better::Less }
    }

    fn at_least(name: &'static str, measured: f64, bound: f64) -> Self {
        Self { name, measured, bound, better: Better::More }
    }

    fn is_met(&self) -> bool {
        match self.better {
            Better::Less => self.measured <= self.bound,
            Better::More => self.measured >= self.bound,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Better {
    Less,
    More,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<38}{:>9}{:>9}{:>9}", "ms", "p50", "p95", "p99")?;
        let rows = [
            ("floor: bare VMM to first answer", &self.floor),
            ("create, restored", &self.restored_create),
            ("create, restored, to first answer", &self.restored_first_answer),
            ("create, pooled", &self.pooled_create),
            ("create, pooled, to first answer", &self.pooled_first_answer),
            ("create, in a burst, pool in use", &self.burst),
            ("create, in a burst, no pool", &self.burst_without_pool),
            ("GET a sandbox", &self.get),
            ("wake by a request, to its answer", &self.wake),
            ("pause, 1 GiB, 64 MiB written", &self.pause_small),
            ("pause, 4 GiB, 64 MiB written", &self.pause_large),
        ];
        for (name, samples) in rows.into_iter().filter(|(_, samples)| !samples.0.is_empty()) {
            let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|share| samples.percentile(share));
            writeln!(f, "{name:<38}{p50:>9.2}{p95:>9.2}{p99:>9.2}")?;
        }
        if let Some(cold) = self.cold {
            writeln!(f, "{:<38}{cold:>9.0}", "first use of a shape, to first answer")?;
        }
        if let Some(stored) = &self.stored {
            let [written, plain, stored] = [stored.written_bytes, stored.plain_bytes, stored.stored_bytes]
                .map(|bytes| bytes as f64 / f64::from(1 << 20));
            writeln!(f, "{written:.0} MiB written: {plain:.1} MiB stored, {stored:.1} MiB on the disk")?;
        }
        if let Some(idle) = &self.idle {
            let (n, median, max) = (idle.sandboxes, idle.private_mib_median, idle.private_mib_max);
            writeln!(
                f,
                "{n} idle sandboxes: {median:.1} MiB of their own each (largest {max:.1}), all answer: {}",
                idle.all_answered
            )?;
        }
        if let Some(proxy) = &self.proxy {
            writeln!(
                f,
                "\n{:<38}{:>9}{:>9}{:>14}",
                format!("through ({})", proxy.nginx),
                "req/s",
                "MiB/s",
                "CPU µs/req"
            )?;
            rows_of(f, "128 B", &proxy.small)?;
            rows_of(f, "1 MiB", &proxy.bulk)?;
        }
        if let Some(egress) = &self.egress {
            write!(f, "{egress}")?;
        }
        writeln!(f, "\n{:<42}{:>9}{:>9}", "promise", "measured", "bound")?;
        for goal in self.goals() {
            let (name, measured) = (goal.name, goal.measured);
            let sign = if goal.better == Better::Less { "≤" } else { "≥" };
            let bound = format!("{sign} {}", goal.bound);
            let verdict = if goal.is_met() { "met" } else { "NOT MET" };
            writeln!(f, "{name:<42}{measured:>9.2}{bound:>9}  {verdict}")?;
        }
        Ok(())
    }
}

fn rows_of(f: &mut fmt::Formatter<'_>, answer: &str, compared: &Comparison) -> fmt::Result {
    let proxies = [("gateway", Some(&compared.gateway)), ("nginx", compared.nginx.as_ref())];
    for (name, figures) in proxies.into_iter().filter_map(|(name, figures)| Some((name, figures?))) {
        let label = format!("{name}, {answer}");
        let (rate, bytes, cpu) = (figures.requests_per_s, figures.mib_per_s, figures.cpu_us_per_request);
        writeln!(f, "{label:<38}{rate:>9.0}{bytes:>9.1}{cpu:>14.0}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_about_what_was_not_measured_is_not_shown() {
        let mut report = Report::default();
        assert!(report.goals().is_empty());
        report.get.push(5.0);
        let [goal] = report.goals()[..] else { panic!("one promise is about GET") };
        assert!(!goal.is_met() && goal.name.starts_with("GET"));
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut samples = Samples::default();
        (1..=20).rev().for_each(|n| samples.push(f64::from(n)));
        assert_eq!((samples.p50(), samples.percentile(0.95), samples.percentile(0.99)), (10.0, 19.0, 20.0));
    }
}

//! What was measured of the ways out, and how it is shown.

use crate::figures::median;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Everything of one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EgressFigures {
    /// haproxy's version, or why there is nothing to compare with.
    pub haproxy: String,
    /// The same of nginx.
    pub nginx: String,
    /// Policy `allow-all`, beside forwarding and NAT without a slot.
    pub nat: Opaque,
    /// By SNI, beside haproxy.
    pub opaque: Opaque,
    /// TLS terminated on the way, beside nginx.
    pub transform: Transform,
    /// Putting policies in force.
    pub admission: Admissions,
}

/// Of a way that passes bytes on as they are.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Opaque {
    /// One connection, MB/s.
    pub bulk: Compared,
    /// Four connections, MB/s.
    pub bulk_of_several: Compared,
    /// New connections in a second, 16 at a time.
    pub connections: Compared,
}

/// Of a way that reads HTTP.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Transform {
    /// Answers of 1 MiB on one connection, MB/s.
    pub bulk: Compared,
    /// Answers of 128 bytes on one connection, in a second.
    pub requests: Compared,
    /// New connections with one request each in a second, 16 at a time.
    pub connections: Compared,
}

/// Medians over the rounds. The other side is absent where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    pub ours: f64,
    pub theirs: Option<f64>,
    /// The median of the rounds' ratios.
    pub ratio: Option<f64>,
}

/// Policies of full size, put in force one after another while all their slots are alive.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Admissions {
    pub slots: usize,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub max_ms: f64,
    /// Rules in the root namespace before the first slot …
    pub rules_before: usize,
    /// … and with all slots under their policies.
    pub rules_after: usize,
}

impl Compared {
    pub fn of(ours: Vec<f64>, theirs: Vec<f64>) -> Self {
        let ratio = median(ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs));
        Self { ours: median(ours).unwrap_or_default(), theirs: median(theirs), ratio }
    }
}

impl fmt::Display for EgressFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:<52}{:>9}{:>9}{:>8}", "out of a sandbox", "Leapbox", "beside", "ratio")?;
        let passed = [("allow-all / kernel's NAT alone", &self.nat), ("opaque / haproxy", &self.opaque)];
        for (way, figures) in passed {
            row(f, &format!("{way}: MB/s, 1 connection"), &figures.bulk)?;
            row(f, &format!("{way}: MB/s, 4 connections"), &figures.bulk_of_several)?;
            row(f, &format!("{way}: connections/s"), &figures.connections)?;
        }
        row(f, "transform / nginx: MB/s, 1 connection", &self.transform.bulk)?;
        row(f, "transform / nginx: requests/s, 1 connection", &self.transform.requests)?;
        row(f, "transform / nginx: connections/s", &self.transform.connections)?;
        writeln!(f, "({}; {})", self.haproxy, self.nginx)?;
        let Admissions { slots, p50_ms, p95_ms, max_ms, rules_before, rules_after } = self.admission;
        writeln!(
            f,
            "a policy put in force, {slots} slots alive, ms: p50 {p50_ms:.2}, p95 {p95_ms:.2}, max {max_ms:.2}"
        )?;
        writeln!(f, "rules in the root namespace: {rules_before}, with {slots} policies: {rules_after}")
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, compared: &Compared) -> fmt::Result {
    write!(f, "{name:<52}{:>9.0}", compared.ours)?;
    match (compared.theirs, compared.ratio) {
        (Some(theirs), Some(ratio)) => writeln!(f, "{theirs:>9.0}{ratio:>8.2}"),
        _ => writeln!(f, "{:>9}", "-"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_ratios_and_absent_without_another_side() {
        let both = Compared::of(vec![1.0, 20.0, 3.0], vec![2.0, 20.0, 1.0]);
        assert_eq!(both, Compared { ours: 3.0, theirs: Some(2.0), ratio: Some(1.0) });
        assert_eq!(Compared::of(vec![4.0], vec![]), Compared { ours: 4.0, theirs: None, ratio: None });
    }
}

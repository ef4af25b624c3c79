//! The rate of the host's time stamp counter (TSC). It is part of the guest kernel's command line, and a snapshot
//! depends on it.
//!
//! ```text
//! tsc-khz    a line for each rate, in kHz, at which this data folder has been used; lines are only ever added
//! ```
//!
//! The rate is part of the compatibility key. A line that was lost or changed would make all bases and stored sandboxes
//! of that rate unusable for ever, also after the folder has come back to the host that they were made on.

use crate::error::VmmError;
use leapbox_errors::FileError;
use std::arch::x86_64::_rdtsc;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, Instant};

const SAMPLE: Duration = Duration::from_millis(20);
/// A sample where the short ones fit no known rate, which may be another host's rate or a busy host's wrong samples.
const LONG_SAMPLE: Duration = Duration::from_millis(200);
const SAMPLES: usize = 5;
/// Readings of both clocks, of which the quickest counts.
const READINGS: usize = 5;
/// A measurement that differs from a known rate by at most one part in this number is of the same host.
const TOLERANCE: u64 = 1000;

/// Returns the rate in kHz, which is one of `file` if the host is a known one, and else is added there. Blocking, for
/// 100 ms, or a second more with a rate that is not known.
pub fn host_khz(file: &Path) -> Result<u64, VmmError> {
    let known = known(file)?;
    // Every start of the server must use the same number: a measurement is never the same twice.
    let same_host = |measured: u64| {
        let near = known.iter().copied().filter(|rate| rate.abs_diff(measured) <= measured / TOLERANCE);
        near.min_by_key(|rate| rate.abs_diff(measured))
    };
    if let Some(rate) = same_host(measure(SAMPLE)) {
        return Ok(rate);
    }
    let measured = measure(LONG_SAMPLE);
    if let Some(rate) = same_host(measured) {
        return Ok(rate);
    }
    let opened = OpenOptions::new().create(true).append(true).open(file);
    let added = opened.and_then(|mut file| file.write_all(format!("{measured}\n").as_bytes()));
    added.map_err(FileError::of("adding the TSC rate to", file))?;
    Ok(measured)
}

fn known(file: &Path) -> Result<Vec<u64>, VmmError> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(FileError::of("reading the TSC rates in", file)(error).into()),
    }
}

/// Measures the rate in kHz, as ticks per elapsed time: the median of some samples.
fn measure(sample: Duration) -> u64 {
    let mut rates: Vec<u64> = (0..SAMPLES)
        .map(|_| {
            let (begin, first) = both_clocks();
            std::thread::sleep(sample);
            let (end, last) = both_clocks();
            let ticks = last.saturating_sub(first);
            (u128::from(ticks) * 1_000_000 / end.duration_since(begin).as_nanos().max(1)) as u64
        })
        .collect();
    rates.sort_unstable();
    rates[SAMPLES / 2]
}

/// Reads the clock and the counter at the same moment.
#[allow(unsafe_code)]
fn both_clocks() -> (Instant, u64) {
    let read = |_| {
        let before = Instant::now();
        // SAFETY: every x86-64 CPU has rdtsc, and the kernel does not forbid it.
        let ticks = unsafe { _rdtsc() };
        (before.elapsed(), before, ticks)
    };
    // The quickest reading: in a slow one this thread has lost the CPU between the two.
    let quickest = (0..READINGS).map(read).min_by_key(|(took, _, _)| *took);
    let (took, before, ticks) = quickest.unwrap_or_else(|| read(0));
    (before + took / 2, ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_from_start_to_start() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("tsc");
        let first = host_khz(&file).expect("measured");
        assert!((500_000..10_000_000).contains(&first), "{first} kHz");
        assert_eq!(host_khz(&file).expect("kept"), first);
        assert_eq!(fs::read_to_string(&file).expect("written"), format!("{first}\n"));
    }

    #[test]
    fn a_rate_of_another_host_is_added_and_both_hosts_keep_theirs() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("tsc");
        fs::write(&file, "1000\n").expect("written");
        let here = host_khz(&file).expect("measured");
        assert_ne!(here, 1000);
        assert_eq!(host_khz(&file).expect("kept"), here);
        assert_eq!(fs::read_to_string(&file).expect("written"), format!("1000\n{here}\n"));
    }

    #[test]
    fn rates_that_cannot_be_read_are_not_replaced() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(host_khz(dir.path()).is_err());
    }
}

//! The rate of the host's time stamp counter (TSC). It is part of the guest kernel's command line, and a snapshot
//! depends on it.

use crate::error::VmmError;
use leapbox_errors::FileError;
use std::arch::x86_64::_rdtsc;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const SAMPLE: Duration = Duration::from_millis(20);
const SAMPLES: usize = 5;
/// A measurement that differs from the stored rate by at most one part in this number is of the same host.
const TOLERANCE: u64 = 1000;

/// Returns the rate in kHz and stores it in `file`. Blocking, for 100 ms.
pub fn host_khz(file: &Path) -> Result<u64, VmmError> {
    let measured = measure();
    // Every start of the server must use the same number: it is part of the compatibility key, and a measurement that
    // is off by one kHz would make all bases and stored sandboxes unusable.
    let kept = fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if let Some(kept) = kept.filter(|kept| kept.abs_diff(measured) <= measured / TOLERANCE) {
        return Ok(kept);
    }
    fs::write(file, format!("{measured}\n")).map_err(FileError::of("keeping the TSC rate in", file))?;
    Ok(measured)
}

/// Measures the rate in kHz, as ticks per elapsed time.
#[allow(unsafe_code)]
fn measure() -> u64 {
    let mut rates: Vec<u64> = (0..SAMPLES)
        .map(|_| {
            let start = Instant::now();
            // SAFETY: every x86-64 CPU has rdtsc, and the kernel does not forbid it.
            let first = unsafe { _rdtsc() };
            std::thread::sleep(SAMPLE);
            // SAFETY: as above.
            let ticks = unsafe { _rdtsc() } - first;
            (u128::from(ticks) * 1_000_000 / start.elapsed().as_nanos().max(1)) as u64
        })
        .collect();
    // The median: a sample is wrong if this thread lost the CPU between reading the counter and the clock.
    rates.sort_unstable();
    rates[SAMPLES / 2]
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
        fs::write(&file, "1000\n").expect("written");
        assert_ne!(host_khz(&file).expect("measured again"), 1000);
    }
}

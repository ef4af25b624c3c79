//! Counters and latency histograms since the server started, for `/metrics`.

use leapbox_api_types::sandbox::SandboxState;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the latency buckets, in milliseconds, inclusive. They are dense around the promised 30 ms of a
/// pooled create and the 100 to 300 ms of restores and wakes (SPECIFICATION.md).
pub const BUCKETS_MS: [u64; 12] = [5, 10, 20, 30, 50, 100, 200, 300, 500, 1000, 3000, 10_000];

/// A histogram that many tasks add to; the last bucket counts everything above the last bound.
#[derive(Debug, Default)]
struct Latencies {
    buckets: [AtomicU64; BUCKETS_MS.len() + 1],
    sum_us: AtomicU64,
}

impl Latencies {
    fn add(&self, elapsed: Duration) {
        let ms = elapsed.as_millis() as u64;
        let bucket = BUCKETS_MS.iter().position(|bound| ms <= *bound).unwrap_or(BUCKETS_MS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(elapsed.as_micros() as u64, Ordering::Relaxed);
    }

    fn read(&self) -> LatencyStats {
        // The counters are read one after the other, so a reading may miss an observation that is being added. Metrics
        // are sums over time, which the next scrape mends.
        LatencyStats {
            buckets: self.buckets.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: Duration::from_micros(self.sum_us.load(Ordering::Relaxed)),
        }
    }
}

/// Counters, written by the service and the sandboxes' tasks.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    creates: Latencies,
    restores: Latencies,
    pauses: Latencies,
    wakes: Latencies,
    failed_wakes: AtomicU64,
}

impl Stats {
    pub fn created(&self, elapsed: Duration) {
        self.creates.add(elapsed);
    }

    pub fn restored(&self, elapsed: Duration) {
        self.restores.add(elapsed);
    }

    pub fn paused(&self, elapsed: Duration) {
        self.pauses.add(elapsed);
    }

    pub fn woken(&self, elapsed: Duration) {
        self.wakes.add(elapsed);
    }

    pub fn wake_failed(&self) {
        self.failed_wakes.fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self, states: Vec<SandboxState>, machines: MachineNumbers) -> LifecycleStats {
        LifecycleStats {
            states,
            machines,
            creates: self.creates.read(),
            restores: self.restores.read(),
            pauses: self.pauses.read(),
            wakes: self.wakes.read(),
            failed_wakes: self.failed_wakes.load(Ordering::Relaxed),
        }
    }
}

/// Numbers of the host's machines and archives.
#[derive(Debug, Clone, Default)]
pub struct MachineNumbers {
    /// Clones ready in the pool.
    pub ready: usize,
    /// New sandboxes whose machine came from the pool.
    pub from_pool: u64,
    /// New sandboxes whose machine was launched for them.
    pub launched: u64,
    pub archives: leapbox_storage::Usage,
}

/// A reading of one latency histogram.
#[derive(Debug, Clone)]
pub struct LatencyStats {
    /// Observations in each bucket of [`BUCKETS_MS`] (not cumulative), and one more bucket for longer ones.
    pub buckets: Vec<u64>,
    /// Sum of all observations.
    pub sum: Duration,
}

/// One reading of all numbers.
#[derive(Debug, Clone)]
pub struct LifecycleStats {
    /// The state of every sandbox that has a task: all but deleted and failed ones.
    pub states: Vec<SandboxState>,
    pub machines: MachineNumbers,
    /// Creates that succeeded, from the request until the sandbox can be used.
    pub creates: LatencyStats,
    /// Restores of snapshots that succeeded, from the request until the sandbox can be used.
    pub restores: LatencyStats,
    /// Pauses, from the permit to store until the machine has ended.
    pub pauses: LatencyStats,
    /// Wakes that succeeded, from the task's start of the wake until the sandbox can be used.
    pub wakes: LatencyStats,
    pub failed_wakes: u64,
}

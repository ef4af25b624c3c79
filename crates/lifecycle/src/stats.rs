//! Numbers about the service since it started.

use leapbox_api_types::sandbox::SandboxState;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the latency buckets, in ms.
pub const BUCKETS_MS: [u64; 12] = [5, 10, 20, 30, 50, 100, 200, 300, 500, 1000, 3000, 10_000];

/// How often and how long; the last bucket is everything above the last bound.
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

/// Where new sandboxes' machines came from, and what is ready and stored.
#[derive(Debug, Clone, Default)]
pub struct MachineNumbers {
    /// Clones ready in the pool.
    pub ready: usize,
    /// New sandboxes whose machine came from the pool.
    pub from_pool: u64,
    /// New sandboxes whose machine was launched for them.
    pub launched: u64,
    /// What the archives take.
    pub archives: leapbox_storage::Usage,
}

/// A latency histogram.
#[derive(Debug, Clone)]
pub struct LatencyStats {
    /// Counts per bucket of [`BUCKETS_MS`], and one more for what took longer.
    pub buckets: Vec<u64>,
    /// All durations together.
    pub sum: Duration,
}

/// A reading of all numbers.
#[derive(Debug, Clone)]
pub struct LifecycleStats {
    /// The state of every sandbox that is not gone.
    pub states: Vec<SandboxState>,
    /// Of the machines and the archives.
    pub machines: MachineNumbers,
    /// Creates that succeeded, from request to usable.
    pub creates: LatencyStats,
    /// Restores of snapshots that succeeded, from request to usable.
    pub restores: LatencyStats,
    /// Pauses, from request to stored and gone.
    pub pauses: LatencyStats,
    /// Wakes, from the first request that needs the sandbox to usable.
    pub wakes: LatencyStats,
    /// Wakes that failed.
    pub failed_wakes: u64,
}

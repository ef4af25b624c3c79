//! Numbers about the service since it started.

use leapbox_api_types::sandbox::SandboxState;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the latency buckets, in ms.
pub const BUCKETS_MS: [u64; 12] = [5, 10, 20, 30, 50, 100, 200, 300, 500, 1000, 3000, 10_000];

/// Where a new sandbox's machine came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Pool,
    Restored,
}

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

/// Counters, written by the service.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    creates: Latencies,
    pooled: AtomicU64,
    restored: AtomicU64,
}

impl Stats {
    pub fn created(&self, elapsed: Duration) {
        self.creates.add(elapsed);
    }

    pub fn obtained(&self, source: Source, elapsed: Duration) {
        tracing::debug!(?source, elapsed_ms = elapsed.as_millis() as u64, "a machine for a new sandbox");
        match source {
            Source::Pool => &self.pooled,
            Source::Restored => &self.restored,
        }
        .fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self, states: Vec<SandboxState>, pool_ready: usize) -> LifecycleStats {
        LifecycleStats {
            states,
            pool_ready,
            creates: self.creates.read(),
            from_pool: self.pooled.load(Ordering::Relaxed),
            restored: self.restored.load(Ordering::Relaxed),
        }
    }
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
    /// The state of every living sandbox.
    pub states: Vec<SandboxState>,
    /// Clones ready in the pool.
    pub pool_ready: usize,
    /// Creates that succeeded, from request to usable.
    pub creates: LatencyStats,
    /// Sandboxes whose machine came from the pool.
    pub from_pool: u64,
    /// Sandboxes whose machine was restored for them.
    pub restored: u64,
}

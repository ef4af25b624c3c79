//! Counters of the gateway. `leapbox serve` renders a [`Stats`] snapshot as metrics.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A snapshot of the gateway's counters. All are totals since the start, except those that say "now".
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The live counters of one thread.
        // Aligned to two cache lines, which x86 CPUs fetch in pairs, so that no two threads write to the same ones.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Counters {
            /// Adds these to `stats`.
            pub(crate) fn add_to(&self, stats: &mut Stats) {
                // Wrapping, as the counters themselves do, so that a metric can never panic.
                $(stats.$name = stats.$name.wrapping_add(self.$name.load(Ordering::Relaxed));)*
            }
        }
    };
}

counters! {
    /// Client connections accepted, including those that were refused.
    connections,
    /// Client connections and tunnels open now.
    connections_open,
    /// Client connections refused because too many were open.
    connections_refused,
    /// TLS handshakes that failed or took too long.
    handshakes_failed,
    /// Client connections closed because nothing moved on them.
    connections_stalled,
    /// Requests for the control plane.
    requests_control,
    /// Requests for sandboxes.
    requests_sandbox,
    /// The gateway's own answers with a 4xx status.
    refused_4xx,
    /// The gateway's own answers with a 5xx status.
    failed_5xx,
    /// Connections opened into sandboxes.
    upstream_opened,
    /// Requests sent over an idle connection of the pool.
    upstream_reused,
    /// Requests sent a second time because an idle connection turned out dead.
    upstream_retried,
    /// WebSocket tunnels that were begun.
    tunnels,
    /// Tunnels closed because they were idle.
    tunnels_idle,
    /// Body and tunnel bytes towards sandboxes.
    bytes_to_sandboxes,
    /// Body and tunnel bytes from sandboxes.
    bytes_from_sandboxes,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn add(counter: &AtomicU64, amount: usize) {
    counter.fetch_add(amount as u64, Ordering::Relaxed);
}
